"""The membership of contacts in groups, as seen from both sides."""

from batch_pipeline.records.links import Link, Target

GROUPS_OF_CONTACT = Target(resource="group", table="groups", id_prefix="grp_", by="name", among=("resource", "contact"))
CONTACTS_OF_GROUP = Target(
    resource="contact", table="contacts", id_prefix="ctct_", by="email", fold_case=True, qualified_by="name"
)

MEMBERS_OF_GROUP = Link("group_members", own="group_id", other="member_id", mark="is_primary")
MEMBERSHIPS_OF_CONTACT = Link("group_members", own="member_id", other="group_id", mark="is_primary")
