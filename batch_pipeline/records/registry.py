"""All resources. A new one needs a line here, a module and a migration."""

from batch_pipeline.batches.model import Action
from batch_pipeline.errors import RefusedError
from batch_pipeline.records.asset import ASSET
from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.group import GROUP
from batch_pipeline.records.resource import Resource
from batch_pipeline.records.shipment import SHIPMENT
from batch_pipeline.records.tracker import TRACKER

RESOURCES: dict[str, Resource] = {resource.name: resource for resource in (CONTACT, GROUP, SHIPMENT, TRACKER, ASSET)}


def get_resource(name: str) -> Resource:
    """The named resource. Raises RefusedError (`unknown_resource`)."""
    try:
        return RESOURCES[name]
    except KeyError:
        raise RefusedError(
            "unknown_resource", f"There is no resource {name!r}: known are {', '.join(RESOURCES)}."
        ) from None


def check_action(resource: Resource, action: Action) -> None:
    """Raises RefusedError (`action_not_available`) if the resource does not have the action."""
    if action not in resource.actions:
        raise RefusedError(
            "action_not_available",
            f"The action {action.value} is not available for {resource.name}: "
            f"use {', '.join(sorted(item.value for item in resource.actions))}.",
        )
