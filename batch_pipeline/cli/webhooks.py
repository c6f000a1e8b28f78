"""Commands on webhooks: `webhooks create`, `list`, `rotate`, `delete`, `test`, `deliveries`, `redeliver`."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from batch_pipeline.cli.console import data_console, one_line, print_json, say
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DEFAULT_ORGANIZATION, DataDir, Json, OrganizationName
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import open_ledger
from batch_pipeline.errors import RefusedError
from batch_pipeline.settings import get_settings

if TYPE_CHECKING:
    from batch_pipeline.batches.deliveries import Delivery, DeliveryStatus
    from batch_pipeline.batches.webhooks import SecretWebhook

webhooks = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="A webhook's id: whk_…")]


def add_to(app: typer.Typer) -> None:
    """Adds the commands."""
    app.add_typer(
        webhooks,
        name="webhooks",
        help="Webhooks that tell others of batches: create, list, rotate, delete, test, deliveries, redeliver.",
    )


@webhooks.command("create")
def create(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where events are sent: https://…")],
    *,
    events: Annotated[
        str | None,
        typer.Option(metavar="TYPES", help="Only these, separated by commas: batch.completed,batch.failed."),
    ] = None,
    organization: OrganizationName = DEFAULT_ORGANIZATION,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Create a webhook of an organization and print the secret that signs its events.

    The secret can't be shown again. The webhook gets only events of later changes.
    """
    from batch_pipeline.batches.webhooks import create_webhook

    wanted = [] if events is None else [part.strip() for part in events.split(",")]
    allows_private = bool(get_settings().allowed_webhook_networks)
    with open_ledger(data_dir) as (_, engine):
        made = create_webhook(engine, organization, url, wanted, allows_private=allows_private)
    _print_secret(made, f"Webhook {made.webhook.id} of organization {organization}. Keep its secret.", json=json)


@webhooks.command("list")
def list_all(
    organization: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this tenant.")] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """List the webhooks, without secrets."""
    from batch_pipeline.batches.organizations import get_organization
    from batch_pipeline.batches.webhooks import list_webhooks

    with open_ledger(data_dir) as (_, engine):
        if organization is not None:
            get_organization(engine, organization)
        found = list_webhooks(engine, organization)
    if json:
        print_json([webhook.to_json() for webhook in found])
        return
    table = Table("webhook", "organization", "url", "events", "created", "disabled")
    for webhook in found:
        events = ", ".join(kind.removeprefix("batch.") for kind in webhook.events)
        table.add_row(
            *(webhook.id, webhook.organization_id, webhook.url, events),
            *(_moment(webhook.created_at), _moment(webhook.disabled_at)),
        )
    data_console().print(table if found else "No webhooks.")


@webhooks.command("rotate")
def rotate(webhook_id: WebhookId, data_dir: DataDir = DEFAULT_DATA_DIR, json: Json = False) -> None:
    """Make a new secret and print it. For 24 hours the previous one signs as well."""
    from batch_pipeline.batches.webhooks import rotate_secret

    with open_ledger(data_dir) as (_, engine):
        made = rotate_secret(engine, webhook_id)
    _print_secret(made, f"Webhook {webhook_id}: the previous secret is valid for 24 hours.", json=json)


@webhooks.command("delete")
def delete(webhook_id: WebhookId, data_dir: DataDir = DEFAULT_DATA_DIR, json: Json = False) -> None:
    """Delete a webhook with its deliveries. Events that are not delivered are lost."""
    from batch_pipeline.batches.webhooks import delete_webhook

    with open_ledger(data_dir) as (_, engine):
        deleted = delete_webhook(engine, webhook_id)
    if json:
        print_json(deleted.to_json())
        return
    data_console().print(f"Webhook {deleted.id} of organization {deleted.organization_id} is deleted.")


@webhooks.command("test")
def send_one(webhook_id: WebhookId, data_dir: DataDir = DEFAULT_DATA_DIR, json: Json = False) -> None:
    """Send a test event from this machine, once. The exit code is 1 if the receiver does not accept it."""
    with open_ledger(data_dir) as (_, engine), step("calling the receiver"):
        from batch_pipeline.batches.webhooks import get_webhook
        from batch_pipeline.notifications.background import open_sender
        from batch_pipeline.notifications.dispatching import send_test

        webhook = get_webhook(engine, webhook_id)
        with open_sender(get_settings()) as sender:
            sent = send_test(engine, sender, webhook)
    if json:
        print_json(sent.to_json())
    elif sent.error is None:
        data_console().print(f"The receiver answered {sent.answer}: it has the test event.")
    else:
        data_console().print(f"The test event is not delivered. {one_line(sent.error)}", soft_wrap=True)
    if sent.error is not None:
        raise typer.Exit(1)


@webhooks.command("deliveries")
def deliveries(
    webhook_id: WebhookId,
    *,
    status: Annotated[str | None, typer.Option(metavar="STATUS", help="pending, delivered or failed.")] = None,
    page: Annotated[int, typer.Option("--page", metavar="NUMBER", help="Page, from 1.", min=1)] = 1,
    limit: Annotated[int, typer.Option("--limit", metavar="NUMBER", help="Lines per page.", min=1, max=1000)] = 25,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """List the deliveries of a webhook, newest first."""
    from batch_pipeline.batches.deliveries import list_deliveries
    from batch_pipeline.batches.webhooks import get_webhook

    wanted = None if status is None else _status(status)
    with open_ledger(data_dir) as (_, engine):
        get_webhook(engine, webhook_id)
        found = list_deliveries(engine, webhook_id, status=wanted, page=page, limit=limit)
    if json:
        print_json([delivery.to_json() for delivery in found.deliveries])
        return
    data_console().print(_deliveries_table(found.deliveries) if found.deliveries else "No deliveries.")
    if found.has_more:
        data_console().print(f"{len(found.deliveries):,} of {found.total_count:,}; further ones: --page {page + 1}")


@webhooks.command("redeliver")
def redeliver_all(
    webhook_id: WebhookId,
    delivery_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[DELIVERY]...", help="Ids of deliveries; default: all failed ones.")
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    json: Json = False,
) -> None:
    """Repeat deliveries: the API sends them within seconds. Enables a webhook that its receiver's 410 has disabled."""
    from batch_pipeline.batches.deliveries import redeliver
    from batch_pipeline.batches.webhooks import get_webhook

    with open_ledger(data_dir) as (_, engine):
        get_webhook(engine, webhook_id)
        count = redeliver(engine, webhook_id, delivery_ids or [])
    if delivery_ids and count < len(set(delivery_ids)):
        say(f"{len(set(delivery_ids)) - count:,} of the deliveries are pending anyway, or none of this webhook.")
    if json:
        print_json({"deliveries": count})
        return
    data_console().print(f"{count:,} {'delivery is' if count == 1 else 'deliveries are'} repeated.")


def _print_secret(made: "SecretWebhook", message: str, *, json: bool) -> None:
    if json:
        print_json(made.to_json())
        return
    data_console().print(made.secret, soft_wrap=True)
    say(message)


def _status(text: str) -> "DeliveryStatus":
    from batch_pipeline.batches.deliveries import DeliveryStatus

    if text not in list(DeliveryStatus):
        raise RefusedError("unknown_status", f"--status {text[:100]!r} is none: use {', '.join(DeliveryStatus)}.")
    return DeliveryStatus(text)


def _deliveries_table(found: Sequence["Delivery"]) -> Table:
    table = Table("delivery", "event", "type", "batch", "status", "attempts", "last attempt", "error")
    for delivery in found:
        table.add_row(
            *(delivery.id, delivery.event_id, delivery.type, delivery.batch_id or ""),
            *(delivery.status.value, str(delivery.attempts), _moment(delivery.attempted_at)),
            one_line(delivery.error or ""),
        )
    return table


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"
