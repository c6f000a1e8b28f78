"""The alert rules and the dashboard, and `promtool`, which comes with Prometheus."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "monitoring"
ALERTS = FOLDER / "alerts.yaml"


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs promtool; skips the test where there is none."""
    program = shutil.which("promtool") or shutil.which("promtool", path=str(ROOT / ".tools"))
    if program is None:
        pytest.skip("there is no promtool: .ci/run unpacks it from Debian's package prometheus")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def rules() -> list[dict[str, Any]]:
    """The recording rules and alert rules, in order."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard."""
    found: list[dict[str, Any]] = json.loads((FOLDER / "grafana" / "dashboard.json").read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    """Every PromQL expression of the rules and of the dashboard."""
    yield from (rule["expr"] for rule in rules())
    for panel in panels():
        # The variable is Grafana's.
        yield from (target["expr"].replace("$__rate_interval", "5m") for target in panel["targets"])


def names_in(expression: str) -> set[str]:
    """The names of the series that the expression reads."""
    return set(_names(promql_parser.parse(expression)))


def _names(node: Any) -> Iterator[str]:
    if isinstance(node, promql_parser.VectorSelector):
        yield node.name
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector.name
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from _names(argument)
    else:
        for part in ("lhs", "rhs", "expr"):
            if hasattr(node, part):
                yield from _names(getattr(node, part))
