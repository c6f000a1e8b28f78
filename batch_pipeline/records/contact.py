"""Contacts: people that shipments, groups and trackers refer to."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from batch_pipeline.records.cells import Cells
from batch_pipeline.records.fields import Boolean, Email, Phone, Text
from batch_pipeline.records.lists import ScalarList
from batch_pipeline.records.memberships import GROUPS_OF_CONTACT, MEMBERSHIPS_OF_CONTACT
from batch_pipeline.records.objects import KeyedObject
from batch_pipeline.records.record_rules import RecordRule, condition
from batch_pipeline.records.references import Belongs
from batch_pipeline.records.resource import DerivationError, NaturalKey, Resource


def _name_from_parts(cells: dict[str, Cells]) -> list[DerivationError]:
    """Joins `first_name` and `last_name` with a blank into `name`. An item may use either way, not both."""
    parts = [part for part in (cells.pop("first_name", None), cells.pop("last_name", None)) if part is not None]
    if not parts:
        return []
    texts = [pc.fill_null(part.values, "") for part in parts]
    joined = pc.utf8_trim_whitespace(pc.binary_join_element_wise(*texts, " "))
    joined = pc.if_else(pc.equal(joined, ""), pa.scalar(None, pa.string()), joined)
    cleared = parts[0].cleared
    for part in parts[1:]:
        cleared = pc.and_(cleared, part.cleared)
    name = cells.get("name")
    if name is None:
        cells["name"] = Cells(joined, cleared, None, joined)
        return []
    both = pc.and_(pc.is_valid(joined), pc.is_valid(name.values))
    from_parts = pc.and_(pc.is_valid(joined), pc.is_null(name.values))
    cells["name"] = Cells(
        pc.if_else(from_parts, joined, name.values),
        pc.and_(name.cleared, pc.invert(from_parts)),
        None if name.kinds is None else pc.if_else(from_parts, pa.scalar(0, pa.uint8()), name.kinds),
        pc.if_else(from_parts, joined, name.raw),
    )
    return [
        DerivationError(
            pc.indices_nonzero(both).cast(pa.int64()),
            "conflict",
            "name",
            "is given together with first_name or last_name: give the one or the others",
        )
    ]


_ADDRESSES = ("secondary", "home", "other", "work", "education")
_ADDRESS_KEYS = tuple(key for name in _ADDRESSES for key in (name, f"{name}_line2"))


def _has_equal_addresses(values: Mapping[str, sql.Composable]) -> sql.Composable:
    """Condition: two addresses of a contact are equal. Both lines are compared together, case-insensitively."""
    return sql.SQL(
        """
        {alternate_addresses} <> '{{}}' AND (
            SELECT count(*) <> count(DISTINCT (
                lower(a.line1 COLLATE "pg_c_utf8"), lower(coalesce(a.line2, '') COLLATE "pg_c_utf8")))
            FROM (
                SELECT {address}, {address_line2}
                UNION ALL
                SELECT j.addresses ->> n, j.addresses ->> (n || '_line2')
                FROM (SELECT {alternate_addresses}) AS j (addresses), unnest({names}::text[]) AS n
            ) AS a (line1, line2)
            WHERE a.line1 IS NOT NULL)
        """
    ).format(**values, names=sql.Literal(list(_ADDRESSES)))


CONTACT = Resource(
    name="contact",
    id_prefix="ctct_",
    own_fields=(
        Text("name", max_length=255, required=True),
        Email("email"),
        Phone("phone"),
        Text("address", max_length=500),
        Text("address_line2", max_length=500),
        ScalarList("alternate_names", elements=(Text("", max_length=255),), max_items=5),
        KeyedObject("alternate_emails", keys=tuple(map(Email, ("education", "personal", "other", "work", "social")))),
        KeyedObject("alternate_phones", keys=tuple(map(Phone, ("education", "home", "mobile", "work", "other")))),
        KeyedObject("alternate_addresses", keys=tuple(Text(name, max_length=500) for name in _ADDRESS_KEYS)),
        Text("id_number", max_length=100),
        Belongs("groups", GROUPS_OF_CONTACT, MEMBERSHIPS_OF_CONTACT),
        Boolean("is_primary"),
        Text("notes", max_length=5_000),
    ),
    natural_keys=(
        NaturalKey(("email",), when="email", fold_case=True),
        NaturalKey(("name", "phone"), only_records_without="email"),
    ),
    file_headers={"first_name": "name", "last_name": "name"},
    derive=_name_from_parts,
    synonyms={
        "external_id": ("crm id", "customer id", "customer number", "external ref", "foreign id", "kundennummer"),
        "name": ("full name", "contact name", "person", "nombre completo", "nom complet", "vollständiger name"),
        "first_name": ("given name", "forename", "vorname", "prénom", "nombre"),
        "last_name": ("surname", "family name", "nachname", "familienname", "apellido", "apellidos", "nom de famille"),
        "email": ("e-mail address", "mail", "mail address", "e-mail-adresse", "correo electrónico", "courriel"),
        "phone": (
            "phone number",
            "phone no",
            "telephone",
            "telephone number",
            "tel",
            "telefon",
            "telefonnummer",
            "teléfono",
        ),
        "address": ("address line 1", "address 1", "street", "street address", "adresse", "dirección", "straße"),
        "address_line2": ("address 2", "address line two", "adresszusatz"),
        "alternate_emails.work": ("work email", "business email", "office email"),
        "alternate_emails.personal": ("personal email", "private email"),
        "alternate_phones.mobile": ("mobile", "mobile phone", "mobile number", "cell", "cell phone", "handy", "móvil"),
        "alternate_phones.work": ("work phone", "office phone", "business phone"),
        "alternate_phones.home": ("home phone",),
        "alternate_names": ("aliases", "nicknames", "aka", "also known as"),
        "id_number": ("id card", "passport number", "national id", "ausweisnummer"),
        "groups": ("group names", "teams", "gruppen"),
        "is_primary": ("primary contact", "main contact"),
        "notes": ("note", "comment", "comments", "remark", "remarks", "notizen", "bemerkung"),
    },
    record_rules=(
        RecordRule(
            "conflict",
            "alternate_emails",
            "needs a primary email: give email as well",
            fields=("email", "alternate_emails"),
            violated=condition("{alternate_emails} <> '{{}}' AND {email} IS NULL"),
            by_giving=("alternate_emails",),
            by_clearing=("email",),
        ),
        RecordRule(
            "conflict",
            "alternate_addresses",
            "has an address twice, or the primary one: all addresses of a contact differ (case apart)",
            fields=("address", "address_line2", "alternate_addresses"),
            violated=_has_equal_addresses,
            by_giving=("address", "address_line2", "alternate_addresses"),
            by_clearing=("address_line2",),
            needs="alternate_addresses",
        ),
    ),
)
