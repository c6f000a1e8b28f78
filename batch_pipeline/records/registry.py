"""The registry of resources: names, tables and actions. A new one needs a line here, a module and a migration.

Most processes need no more of a resource. Its module (`descriptions.get_resource`) has the fields and rules.
"""

from dataclasses import dataclass

from batch_pipeline.batches.model import Action, UploadAction
from batch_pipeline.errors import RefusedError


@dataclass(frozen=True)
class Registered:
    """What is known of a resource without its rules.

    Attributes:
        table: its table, in schema public.
        actions: the actions that uploads may use.
    """

    table: str
    actions: frozenset[UploadAction]


_ALL_ACTIONS = frozenset(UploadAction)
_MERGE = frozenset({UploadAction.merge})

# The specification's name, in the singular -> the resource.
RESOURCES: dict[str, Registered] = {
    "contact": Registered("contacts", _ALL_ACTIONS),
    "group": Registered("groups", _ALL_ACTIONS),
    "shipment": Registered("shipments", _MERGE),
    "tracker": Registered("trackers", _MERGE),
    "asset": Registered("assets", _MERGE),
}

# The tables of the change log, one for each resource and one for the links of groups and their members -> the columns
# with ids of records.
CHANGES_KEYS: dict[str, tuple[str, ...]] = {
    **{f"{name}_changes": ("record_id",) for name in RESOURCES},
    "group_member_changes": ("group_id", "member_id"),
}
CHANGES_TABLES = tuple(CHANGES_KEYS)


def check_resource(name: str) -> None:
    """Raises RefusedError (`unknown_resource`) if there is no such resource."""
    if name not in RESOURCES:
        raise RefusedError("unknown_resource", f"There is no resource {name!r}: known are {', '.join(RESOURCES)}.")


def check_action(name: str, action: UploadAction) -> Action:
    """The action of an upload.

    Raises RefusedError (`unknown_resource`, or `action_not_available` if the resource does not have the action)."""
    check_resource(name)
    actions = RESOURCES[name].actions
    if action not in actions:
        raise RefusedError(
            "action_not_available",
            f"The action {action.value} is not available for {name}: "
            f"use {', '.join(sorted(item.value for item in actions))}.",
        )
    return Action(action.value)
