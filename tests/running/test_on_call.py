"""What the engineer on call does in the Dagster UI, done in a browser against the running system."""

from collections.abc import Callable
from contextlib import suppress

import psycopg
import pytest
from batch_runs import Row, arrived, as_csv, contacts, insert_contacts, new_organization
from dagster import DagsterEventType, DagsterInstance, RunsFilter
from waiting import eventually
from worlds import record_id

from batch_pipeline.batches.model import Batch, Starter
from batch_pipeline.dagster_home import LOCATION_NAME
from batch_pipeline.local.system import LocalSystem
from batch_pipeline.orchestration import tags
from batch_pipeline.system import System
from running.dagster_ui import Browser

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

pytestmark = pytest.mark.timeout(600)
STORED = 250


def _people(organization_id: str, name: str) -> list[Row]:
    return [{"external_id": f"{organization_id}-{number}", "name": f"{name} {number}"} for number in range(STORED)]


def _ended(system: System, batch: Batch) -> Batch | None:
    found = system.ledger.get(batch.id)
    return found if found.status in ("completed", "failed") else None


def _steps(instance: DagsterInstance, run_id: str) -> list[str]:
    """The ops that the run has executed, once it has ended."""
    eventually(lambda: (run := instance.get_run_by_id(run_id)) is not None and run.is_finished)
    records = instance.get_records_for_run(run_id, of_type=DagsterEventType.STEP_START).records
    return [str(record.event_log_entry.step_key) for record in records]


def _fail_in_processing(system: System, organization_id: str, look: Callable[[Batch], None]) -> Batch:
    """A batch that loses its database connection in its second chunk: it waits there for a record that is locked.

    `look` is called meanwhile.
    """
    batch = arrived(
        system, organization_id, as_csv(_people(organization_id, "New")), name="people.csv", starter=Starter.launcher
    )
    with (
        psycopg.connect(system.database_url) as holder,
        psycopg.connect(system.database_url, autocommit=True) as looker,
    ):
        holder.execute(
            "SELECT FROM contacts WHERE organization_id = %s AND external_id = %s FOR UPDATE",
            (organization_id, f"{organization_id}-150"),
        )
        waiting = eventually(
            lambda: looker.execute(
                "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                " AND query LIKE '%%contacts%%'"
            ).fetchone()
        )
        look(system.ledger.get(batch.id))
        looker.execute("SELECT pg_terminate_backend(%s)", waiting)
        holder.rollback()
    failed: Batch = eventually(lambda: _ended(system, batch))
    assert failed.reason is not None
    assert (failed.status, failed.reason.code) == ("failed", "database_unavailable")
    return failed


def test_a_run_that_lost_its_database_is_re_executed_from_failure_on_its_page(
    running: LocalSystem, module_system: System, module_instance: DagsterInstance, browser: Browser
) -> None:
    system = module_system
    organization_id = new_organization(system)
    insert_contacts(
        system,
        organization_id,
        *({"id": f"ctct_{number:022}", **person} for number, person in enumerate(_people(organization_id, "Old"))),
    )

    def look(working: Batch) -> None:
        browser.go(f"/runs/{working.run_id}")
        browser.sees("processing: chunk 1 of 3, 100 of 250 rows")
        browser.sees("rows per second")
        browser.picture("progress")

    failed = _fail_in_processing(system, organization_id, look)
    written = [record["name"] for record in contacts(system, organization_id) if record["name"].startswith("New")]
    assert len(written) == 100

    browser.go(f"/runs/{failed.run_id}")
    browser.sees("Failure")
    re_execute = browser.page.get_by_role("button", name="Re-execute all")
    playwright.expect(re_execute).to_be_enabled()
    browser.sees("The database went away while the batch ran")
    browser.sees("what to do")
    browser.picture("failed-run")
    re_execute.locator("xpath=following::button[1]").click()
    browser.page.get_by_role("menuitem", name="From failure").click()
    completed: Batch = eventually(lambda: (done := _ended(system, failed)) and done.status == "completed" and done)

    assert (completed.attempts, completed.stats.updated, completed.stats.items_read) == (2, STORED, STORED)
    assert {record["name"][:3] for record in contacts(system, organization_id)} == {"New"}
    (again,) = module_instance.get_runs(
        RunsFilter(tags={tags.BATCH_ID: failed.id, "dagster/parent_run_id": str(failed.run_id)})
    )
    assert again.run_id == completed.run_id
    assert _steps(module_instance, again.run_id) == ["process", "cleanup"]
    browser.go(f"/runs/{again.run_id}")
    browser.sees("Success")
    browser.picture("re-executed-run")


LAUNCHPAD = """\
ops:
  parse:
    config:
      organization: {organization}
      resource: contact
      action: merge
      file: incoming/{organization}.csv
"""


def test_a_batch_is_launched_followed_and_inspected_in_the_ui(
    running: LocalSystem, module_system: System, browser: Browser
) -> None:
    system = module_system
    organization_id = new_organization(system)
    rows = [{"name": f"Person {number}", "email": f"p{number}@example.com"} for number in range(300)]
    rows[7]["email"] = rows[9]["email"] = "no address"
    system.store.write(f"incoming/{organization_id}.csv", as_csv(rows))
    system.store.write(f"uploads/{organization_id}/contact/merge/more.csv", b"name\nAda\nBob\n")

    browser.go(f"/locations/{LOCATION_NAME}/jobs/batch_job/playground")
    _launch(browser, LAUNCHPAD.format(organization=organization_id), picture="launchpad")
    browser.sees("Success")

    browser.page.get_by_placeholder("Filter").fill("step:validate")
    browser.sees("errors by field and code")
    browser.sees("invalid_format")
    browser.picture("validate")
    browser.page.get_by_placeholder("Filter").fill("step:cleanup")
    browser.sees("300 items: 298 created, 2 rejected")
    browser.sees(f"merge contact: {organization_id}.csv, from {organization_id} by file")
    browser.sees("errors.csv")
    browser.picture("cleanup")

    browser.go(f"/locations/{LOCATION_NAME}/sensors/upload_sensor")
    browser.sees("1 run requested")
    browser.picture("upload-sensor")
    browser.go("/assets/contacts?view=overview")
    browser.page.get_by_text("Plots", exact=True).first.click()
    for number in ("items", "rejected", "seconds", "rows per second"):
        browser.sees(number, exact=True)
    browser.picture("asset-plots")


def test_rejected_rows_are_seen_in_the_list_on_the_asset_and_in_their_file_and_run_again(
    running: LocalSystem, module_system: System, browser: Browser
) -> None:
    """The Launchpad as it opens: nothing is typed but the key of the API."""
    system = module_system
    browser.go(f"/locations/{LOCATION_NAME}/jobs/batch_job/playground")
    browser.sees("samples/contacts.csv")
    launch = browser.page.get_by_role("button", name="Launch run")
    playwright.expect(launch).to_be_enabled()
    launch.click()
    browser.page.wait_for_url("**/runs/*")
    browser.sees("Success")

    def ended(of: Callable[[Batch], bool]) -> Callable[[], Batch | None]:
        return lambda: next(
            (found for each in system.ledger.find() if of(each) and (found := _ended(system, each))), None
        )

    batch: Batch = eventually(ended(lambda each: each.name == "contacts.csv"))
    assert (batch.stats.created, batch.stats.rejected) == (8, 2)

    browser.page.get_by_placeholder("Filter").fill("step:cleanup")
    link = browser.page.get_by_role("link", name=f"{running.api_url}/v1/batches/{batch.id}/errors.csv").first
    link.wait_for(state="visible")
    retry = browser.page.locator(f'a[href*="{tags.RETRY_REJECTED_JOB_NAME}/playground/setup"]').first
    retry_address = str(retry.get_attribute("href"))
    browser.picture("links")
    person = browser.with_password(running.api_key)
    with person.expect_download() as downloading, suppress(playwright.Error):  # a download is no page
        person.goto(str(link.get_attribute("href")))
    downloaded = downloading.value.path().read_text(encoding="utf-8")
    assert downloading.value.suggested_filename == "contacts-errors.csv"
    assert "no address" in downloaded

    browser.go("/runs/")
    browser.sees("8 created, 2 rejected")
    browser.sees("contacts.csv")
    assert browser.page.get_by_text("batch_turn").count() == browser.page.get_by_text("batch_request").count() == 0
    browser.picture("run-list")

    browser.go("/assets/contacts?view=checks")
    browser.sees("rejected_rows")
    browser.sees("no_unexpected_deletes")
    browser.page.get_by_text("rejected_rows").first.click()
    browser.sees("2 of 10 items were rejected (20.0%); the limit is 10.0%.")
    browser.picture("asset-checks")
    browser.go("/assets/contacts?view=overview")
    browser.sees("operations")
    browser.sees("external_id")
    browser.sees("inbox")
    browser.picture("asset-overview")

    browser.go(retry_address)
    browser.sees(batch.id)
    playwright.expect(launch).to_be_enabled()
    browser.picture("retry-rejected-job")
    launch.click()
    browser.page.wait_for_url("**/runs/*")
    again: Batch = eventually(ended(lambda each: each.retry_of == batch.id))
    assert again.reason is not None
    assert again.reason.code == "no_valid_items"  # nobody has corrected them
    browser.sees("failed: no_valid_items")
    browser.go("/assets/contacts?view=overview")
    browser.page.get_by_text("Plots", exact=True).first.click()
    plot = browser.page.get_by_text("rejected", exact=True).last
    plot.wait_for(state="visible")
    plot.scroll_into_view_if_needed()
    browser.picture("asset-plots-with-failures")


APPLY = """\
ops:
  apply:
    config:
      batch: {batch_id}
"""


UNDO = """\
ops:
  undo:
    config:
      batch: {batch_id}
"""


def test_a_planned_batch_is_looked_at_applied_and_undone_in_the_ui(
    running: LocalSystem, module_system: System, browser: Browser
) -> None:
    system = module_system
    organization_id = new_organization(system)
    people = [{"external_id": f"{organization_id}-{number}", "name": f"Old {number}"} for number in range(3)]
    insert_contacts(
        system,
        organization_id,
        *({"id": record_id("contacts", f"{organization_id[-4:]}{n}"), **each} for n, each in enumerate(people)),
    )
    upload = as_csv([{**each, "name": f"New {number}"} for number, each in enumerate(people[:2])])
    batch = arrived(system, organization_id, upload, starter=Starter.launcher, plan_only=True)
    planned: Batch = eventually(lambda: (found := system.ledger.get(batch.id)).status == "planned" and found)

    browser.go(f"/runs/{planned.run_id}")
    browser.sees("Success")
    browser.page.get_by_placeholder("Filter").fill("step:validate")
    browser.sees("2 update")
    browser.sees("most_records_change")
    browser.sees(f"Launch apply_job with batch: {batch.id}")
    browser.page.locator(f'a[href*="apply_job/playground/setup"][href*="{batch.id}"]').first.wait_for(state="visible")
    browser.picture("planned-run")
    assert {record["name"][:3] for record in contacts(system, organization_id)} == {"Old"}

    browser.go(f"/locations/{LOCATION_NAME}/jobs/apply_job/playground")
    _launch(browser, APPLY.format(batch_id=batch.id), picture="apply-job")
    browser.sees("Success")
    completed: Batch = eventually(lambda: _ended(system, batch))

    assert (completed.status, completed.stats.updated) == ("completed", 2)
    assert [record["name"] for record in contacts(system, organization_id)] == ["New 0", "New 1", "Old 2"]

    browser.go(f"/locations/{LOCATION_NAME}/jobs/undo_job/playground")
    _launch(browser, UNDO.format(batch_id=batch.id), picture="undo-job")
    browser.sees("Success")
    browser.page.get_by_placeholder("Filter").fill("step:cleanup")
    browser.sees("2 reversed")
    browser.picture("undone-run")
    assert [record["name"] for record in contacts(system, organization_id)] == ["Old 0", "Old 1", "Old 2"]


def _launch(browser: Browser, config: str, *, picture: str) -> None:
    """Replaces the Launchpad's text, and launches the run, whose page is then shown."""
    editor = browser.page.locator(".CodeMirror").first
    editor.click()
    browser.page.keyboard.press("Control+A")
    browser.page.keyboard.insert_text(config)
    browser.picture(picture)
    launch = browser.page.get_by_role("button", name="Launch run")
    playwright.expect(launch).to_be_enabled()
    launch.click()
    browser.page.wait_for_url("**/runs/*")
