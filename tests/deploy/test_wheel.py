"""The wheel, which the image is made of: it has every file of the package, and works where there is no checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from batch_pipeline.system import System

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of what is in the repository: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(source)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "batch_pipeline"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("batch_pipeline/")}

    assert packed == set(tracked)


def test_the_wheel_runs_a_batch_outside_of_the_checkout(wheel: Path, system: System, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    target = ["--target", str(installed)]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *target, str(wheel)], check=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("DAGSTER_HOME", "PYTHONPATH")}
    environment["PYTHONPATH"] = str(installed)
    (tmp_path / "people.csv").write_text("external_id,name\ncrm-1,Ada\n")

    def run(*arguments: str) -> str:
        command = [sys.executable, "-P", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", "import batch_pipeline; print(batch_pipeline.__file__)").startswith(str(installed))
    arguments = ["run", "people.csv", "--resource", "contact", "--action", "merge", "--json"]
    batch = json.loads(run("-m", "batch_pipeline", *arguments))
    assert batch["status"] == "completed"
    assert system.ledger.get(batch["id"]).stats.created == 1
