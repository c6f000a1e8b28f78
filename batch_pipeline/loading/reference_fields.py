"""What a resource's fields of references mean for the database."""

from collections.abc import Iterable

from psycopg import sql

from batch_pipeline.records.links import MARK, SET, Elsewhere
from batch_pipeline.records.references import MarkedMembers, Members, References
from batch_pipeline.records.resource import Resource


def references_of(resource: Resource, fields: Iterable[str]) -> list[References]:
    """Those of the fields that are references. All of them must have the same link.

    Raises TypeError if they have several.
    """
    found = [field for name in fields if isinstance(field := resource.field(name), References)]
    if len({field.link for field in found}) > 1:
        raise TypeError(f"the references of {resource.name} are kept in different tables")
    return found


def referred_resources(resource: Resource, fields: Iterable[str]) -> set[str]:
    """Names of the other resources whose records decide what a batch with these fields writes."""
    return {field.target.resource for field in references_of(resource, fields)}


def members_of(resource: Resource, field: MarkedMembers) -> Members:
    """The field of members that a field marks. Raises TypeError if the named field is another kind."""
    members = resource.field(field.of)
    if not isinstance(members, Members):
        raise TypeError(f"{field.name} marks members of {field.of}, which is no field of members")
    return members


def elsewhere_of(resource: Resource, field: References) -> Elsewhere | None:
    """When the field's references are ids of things that this system does not keep; None: never."""
    if isinstance(field, MarkedMembers):
        field = members_of(resource, field)
    return field.elsewhere if isinstance(field, Members) else None


def replaces(field: References, bit: int) -> sql.Composed:
    """Condition: item `s` gives the whole new content of the field (at this bit), so all other links are removed."""
    return sql.SQL("((s.cleared >> {}) & 1 = 1 OR coalesce(jsonb_exists(s.{}, {}), false))").format(
        sql.Literal(bit),
        sql.Identifier(field.name),
        sql.Literal(MARK if isinstance(field, MarkedMembers) else SET),
    )
