"""Which fields are suggested for unknown headers: only where one field and one header are meant."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_pipeline.records.contact import CONTACT
from batch_pipeline.records.descriptions import all_resources, get_resource
from batch_pipeline.records.header_names import (
    flat_headers,
    looks_like_value,
    nearest,
    plain_name,
    suggest_mapping,
)
from batch_pipeline.records.resource import Resource


@pytest.mark.parametrize("resource", all_resources(), ids=lambda each: each.name)
def test_the_synonyms_of_a_resource_are_unique_and_belong_to_headers_that_it_knows(resource: Resource) -> None:
    names = flat_headers(resource)
    assert all(map(resource.knows, names))
    assert set(resource.synonyms) <= set(names)
    spelled = [plain_name(synonym) for synonyms in resource.synonyms.values() for synonym in synonyms]
    assert [text for text, count in Counter([*spelled, *map(plain_name, names)]).items() if count > 1] == []
    assert all(text == text.lower() for synonyms in resource.synonyms.values() for text in synonyms)


@pytest.mark.parametrize("resource", all_resources(), ids=lambda each: each.name)
def test_each_name_and_synonym_is_suggested_in_any_spelling(resource: Resource) -> None:
    spellings = {name: [name, *resource.synonyms.get(name, ())] for name in flat_headers(resource)}
    for name, texts in spellings.items():
        for text in texts:
            for header in (
                text.upper(),
                text.title().replace(" ", ""),
                text.replace(" ", "_"),
                f" {text.capitalize()}: ",
            ):
                assert suggest_mapping(resource, [header], taken=()) == {name: header}


@pytest.mark.parametrize(
    ("resource", "headers", "suggested"),
    [
        ("contact", ["E-Mail", "Full name", "Foo"], {"email": "E-Mail", "name": "Full name"}),
        ("contact", ["Vorname", "TÉLÉPHONE"], {"first_name": "Vorname", "phone": "TÉLÉPHONE"}),
        ("contact", ["emial", "phnoe", "adresss"], {"email": "emial", "phone": "phnoe", "address": "adresss"}),
        ("contact", ["Alternate Emails Work"], {"alternate_emails.work": "Alternate Emails Work"}),
        ("shipment", ["Carrier", "Sender Name"], {"provider": "Carrier", "sender.name": "Sender Name"}),
        # headers that compete for a field; the better way wins where there is one
        ("contact", ["E-Mail", "E Mail"], {}),
        ("contact", ["Mail", "E-mail address"], {}),
        ("contact", ["Email", "Mail"], {"email": "Email"}),
        ("contact", ["Name", "Vorname", "Nachname"], {}),
        # a cell can't give an object
        ("contact", ["Metadata", "Alternate emails"], {}),
        ("shipment", ["Parcels", "Sender"], {"sender.name": "Sender"}),
        # no typing errors: too short, other digits, too different
        ("contact", ["nmae", "email2", "company"], {}),
        # can't be quoted
        ("contact", ["e\nmail", "e" * 60 + "mail"], {}),
    ],
)  # fmt: skip
def test_what_is_suggested(resource: str, headers: list[str], suggested: dict[str, str]) -> None:
    assert suggest_mapping(get_resource(resource), headers, taken=()) == suggested


def test_a_field_that_another_column_gives_is_not_suggested() -> None:
    assert suggest_mapping(CONTACT, ["E-Mail", "Phone"], taken={"email"}) == {"phone": "Phone"}
    assert suggest_mapping(CONTACT, ["Vorname"], taken={"name"}) == {}


@given(
    st.lists(st.text(max_size=12) | st.sampled_from(["E-Mail", "email", "Mail", "Tel", "Phone", "Name"]), unique=True)
)
def test_a_suggestion_is_a_mapping_that_a_batch_can_have(headers: list[str]) -> None:
    unknown = [header for header in headers if not CONTACT.knows(header)]
    suggested = suggest_mapping(CONTACT, unknown, taken=set(headers) - set(unknown))
    assert set(suggested.values()) <= set(unknown)
    assert len(set(suggested.values())) == len(suggested)
    assert all(CONTACT.knows(name) and name not in headers for name in suggested)


@pytest.mark.parametrize(
    ("text", "value"),
    [("In Transit", "in_transit"), ("IN-TRANSIT", "in_transit"), ("cancelled", "canceled"), ("deliverd", "delivered"),
     ("delayed!", "delayed"), ("shipped", None), ("", None), ("x" * 100_000, None)],
)  # fmt: skip
def test_the_nearest_allowed_value_is_found_where_it_is_certain(text: str, value: str | None) -> None:
    assert nearest(text, ("in_transit", "canceled", "delivered", "delayed")) == value


def test_what_could_be_two_allowed_values_is_near_to_neither() -> None:
    assert nearest("disposes", ("disposed", "disposer")) is None


@pytest.mark.parametrize(
    "text",
    ["2024", "-1,5", "+1 415 555-2671", "ada@example.com", "31.01.2026", "2026-01-31T12:30:00Z", "https://x.org"],
)
def test_values_are_recognised(text: str) -> None:
    assert looks_like_value(text)


@pytest.mark.parametrize("text", ["Name", "E-Mail", "Q1", "1st line", "T", "", "@", "phone (home)"])
def test_names_are_not_taken_for_values(text: str) -> None:
    assert not looks_like_value(text)
