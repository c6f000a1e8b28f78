"""The layers, decisions and words of the documents are those of the code.

`docs/architecture.md` and `docs/glossary.md` hold the lists, once; nothing is imported here, modules are parsed.
"""

import ast
import graphlib
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from batch_pipeline.batches.tables import metadata
from batch_pipeline.records.registry import RESOURCES

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "batch_pipeline"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


class Import(NamedTuple):
    """Module ``source`` imports ``target`` in a line, at the top, within a function or for type checkers."""

    source: str
    target: str
    line: int


@cache
def modules() -> dict[str, ast.Module]:
    """Every module by its name without `batch_pipeline.`; the root package itself is ''."""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


@cache
def imports() -> tuple[Import, ...]:
    """Every import of our own modules."""
    return tuple(_imports())


def _imports() -> Iterator[Import]:
    for source, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{source}:{node.lineno} imports by a relative name"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] == PACKAGE.name:
                    yield Import(source, _module(name.removeprefix(PACKAGE.name).removeprefix(".")), node.lineno)


def _module(name: str) -> str:
    """The module of a dotted name that ends with a module or with something in one."""
    return name if name in modules() else name.rpartition(".")[0]


def rows(document: str, heading: str) -> list[list[str]]:
    """The cells of the first table under the heading, without its header."""
    section = document.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> list[str]:
    """The words of a cell that are marked as code."""
    return re.findall(r"`([^`]+)`", cell)


def layers() -> dict[str, int]:
    """Package or module at the top -> its layer, the ground floor being 1."""
    return {name: int(number) for number, names, _ in rows(ARCHITECTURE, "Layers") for name in code(names)}


def top(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def test_every_package_has_a_layer() -> None:
    assert {top(module) for module in modules() if module} == set(layers())


def test_the_diagram_shows_the_layers_of_the_table() -> None:
    section = ARCHITECTURE.split("\n## Layers\n", 1)[1].split("\n## ", 1)[0]
    shown = [set(re.findall(r"\w+", label.split(" (")[0])) for label in re.findall(r'\["(.+?)"\]', section)]
    assert shown == [set(code(names)) for _, names, _ in rows(ARCHITECTURE, "Layers")]


def test_no_import_runs_up_or_across_the_layers() -> None:
    layer = layers() | {"": 2}  # the root package holds what runs before any import
    wrong = [
        f"{item.source}:{item.line} imports {item.target}"
        for item in imports()
        if top(item.source) != top(item.target) and layer[top(item.source)] <= layer[top(item.target)]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = defaultdict(set)
    for item in imports():
        if item.source != item.target:
            graph[item.source].add(item.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_only_orchestration_imports_dagster() -> None:
    importing = {top(module) for module, tree in modules().items() if any(map(_is_dagster, _run_time_nodes(tree)))}
    assert importing == {"orchestration"}


def test_the_code_location_does_not_import_libraries_that_only_ops_need() -> None:
    program = "import sys, batch_pipeline.definitions\nprint(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "dagster" in loaded
    assert {"pandas", "pandera", "numpy", "pyarrow", "s3fs", "botocore", "alembic"}.isdisjoint(loaded)


def _run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from _run_time_nodes(node)


def _is_dagster(node: ast.AST) -> bool:
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom):
        names = [str(node.module)]
    return any(name.startswith("dagster") for name in names)


def test_modules_share_a_name_only_where_the_page_says_why() -> None:
    sharing = defaultdict(set)
    for module in modules():
        if module and "versions" not in module:
            sharing[module.rpartition(".")[2]].add(module)
    packages = {path.parent.name for path in PACKAGE.rglob("__init__.py")}
    allowed = {code(name)[0]: set(code(names)) for name, names, _ in rows(ARCHITECTURE, "Modules that share a name")}
    found = {name: names for name, names in sharing.items() if len(names) > 1 and name not in packages}
    assert found == allowed


def test_each_question_names_one_existing_function() -> None:
    table = rows(ARCHITECTURE, "Where is it decided that …")
    assert len({question for question, *_ in table}) == len(table)
    for question, module, function, _ in table:
        names = code(function)[0].split(".")
        body: list[ast.stmt] = modules()[code(module)[0]].body
        for name in names:
            found = [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name]
            assert found, f"{question} {module} does not define {function}"
            body = found[0].body


def test_each_word_is_defined_once_and_its_module_exists() -> None:
    table = rows(GLOSSARY, "Words")
    words = [word for word, *_ in table]
    assert [word for word, count in Counter(words).items() if count > 1] == []
    assert words == sorted(words)
    tables = {*metadata.tables, *(resource.table for resource in RESOURCES.values())}
    for word, _, where in table:
        places = code(where)
        assert places, word
        assert [place for place in places if place not in modules() and place not in tables] == [], word


def test_each_word_is_used_in_the_code_or_the_documents() -> None:
    documents = [ROOT / "README.md", *(path for path in (ROOT / "docs").rglob("*.md") if path.name != "glossary.md")]
    text = "\n".join(path.read_text(encoding="utf-8").lower() for path in [*documents, *PACKAGE.rglob("*.py")])
    unused = [word for word, *_ in rows(GLOSSARY, "Words") if not re.search(rf"\b{word.replace(' ', '[ _-]')}", text)]
    assert unused == []
