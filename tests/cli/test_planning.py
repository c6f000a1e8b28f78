"""`plan` and `apply`, as a person uses them."""

import json

import pytest
from command_line import MERGE, CommandLine

BEFORE = "external_id,name,notes\na,Ann,one\nb,Bob,two\nc,Cid,three\n"
SHIFTED = "external_id,name,notes\na,one,Ann\nb,two,Bob\nc,three,Cid\n"


@pytest.fixture
def batch_id(cli: CommandLine, organization: str) -> str:
    """A planned batch, whose file has two columns exchanged."""
    place = ("--organization", organization)
    assert cli("run", cli.file("before.csv", BEFORE), *MERGE, *place).returncode == 0
    done = cli("plan", cli.file("shifted.csv", SHIFTED), *MERGE, *place, "--json")
    assert done.returncode == 0, done.stderr
    batch = json.loads(done.stdout)
    assert batch["status"] == "planned"
    return str(batch["id"])


def test_a_plan_is_shown_with_its_warning_and_how_to_go_on(cli: CommandLine, organization: str, batch_id: str) -> None:
    shown = cli("show", batch_id, "--organization", organization).stdout

    assert "Warning column_shifted" in shown
    assert "Samples of changes" in shown
    for value in ("Ann", "one", "name", "notes"):
        assert value in shown
    assert f"batch-pipeline apply {batch_id} --organization {organization}" in shown
    assert f"batch-pipeline cancel {batch_id} --organization {organization}" in shown


def test_a_plan_is_applied_once(cli: CommandLine, organization: str, batch_id: str) -> None:
    place = ("--organization", organization)

    done = cli("apply", batch_id, *place, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["stats"]["updated"] == 3
    again = cli("apply", batch_id, *place)
    assert (again.returncode, "only planned batches can be applied" in again.stderr) == (2, True)


def test_a_changed_plan_exits_with_1_and_shows_the_difference(
    cli: CommandLine, organization: str, batch_id: str
) -> None:
    place = ("--organization", organization)
    correction = cli.file("correction.csv", "external_id,name\na,Anna\n")
    assert cli("run", correction, *MERGE, *place).returncode == 0

    done = cli("apply", batch_id, *place)

    assert done.returncode == 1
    assert "has changed since it was shown, so nothing was written" in done.stderr
    assert "Different from the plan shown before" in done.stdout
    assert "name: Anna → one" in done.stdout
    assert cli("apply", batch_id, *place, "--if-changed", "replan").returncode == 0


def test_run_with_plan_only_is_the_same_as_plan(cli: CommandLine, organization: str) -> None:
    done = cli("run", cli.file("before.csv", BEFORE), *MERGE, "--plan-only", "--organization", organization)

    assert done.returncode == 0, done.stderr
    assert "What the batch would do" in done.stdout
    assert "Apply it:" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--digest", "0" * 64), "shows another plan by now"),
        (("--if-changed", "perhaps"), "is not one of"),
        (("--organization", "nobody"), "is not of organization nobody"),
    ],
)
def test_a_wrong_apply_says_what_is_wrong_and_writes_nothing(
    cli: CommandLine, organization: str, batch_id: str, arguments: tuple[str, str], message: str
) -> None:
    place = () if arguments[0] == "--organization" else ("--organization", organization)

    done = cli("apply", batch_id, *place, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert json.loads(cli("show", batch_id, "--organization", organization, "--json").stdout)["status"] == ("planned")
