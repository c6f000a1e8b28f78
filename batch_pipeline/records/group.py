"""Groups of contacts, or of locations, which this system does not keep."""

from batch_pipeline.records.fields import Choice, ForeignId, Text
from batch_pipeline.records.links import Elsewhere
from batch_pipeline.records.memberships import CONTACTS_OF_GROUP, MEMBERS_OF_GROUP
from batch_pipeline.records.references import MarkedMembers, Members
from batch_pipeline.records.resource import NaturalKey, Resource

LOCATION_PREFIX = "loc_"

GROUP = Resource(
    name="group",
    id_prefix="grp_",
    own_fields=(
        Text("name", max_length=255, required=True),
        Choice("resource", values=("contact", "location"), default="contact"),
        ForeignId("location_id", prefix=LOCATION_PREFIX),
        Members(
            "children",
            CONTACTS_OF_GROUP,
            MEMBERS_OF_GROUP,
            elsewhere=Elsewhere("resource", "location", prefix=LOCATION_PREFIX),
        ),
        MarkedMembers("primary", CONTACTS_OF_GROUP, MEMBERS_OF_GROUP, of="children"),
    ),
    natural_keys=(NaturalKey(("name", "resource", "location_id")),),
    synonyms={
        "external_id": ("external ref", "foreign id"),
        "name": ("group name", "title", "gruppe", "gruppenname"),
        "resource": ("resource type", "kind", "member type"),
        "location_id": ("location", "site", "site id", "standort"),
        "children": ("members", "group members", "contacts", "mitglieder"),
        "primary": ("primary members", "primary contacts", "main contacts"),
    },
)
