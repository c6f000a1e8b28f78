"""Phone numbers: examples of the rule, and agreement of the fast checks with the library."""

import functools

import phonenumbers
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers import PhoneMetadata, PhoneNumberFormat, PhoneNumberType

from batch_pipeline.values.phone import canonical_phones
from batch_pipeline.values.phone_formats import replace_written
from batch_pipeline.values.phone_patterns import accepts_e164

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)


def canonical(*texts: str | None, region: str = "US") -> list[str | None]:
    return canonical_phones(pa.array(texts, pa.string()), region).values.to_pylist()


def by_library(text: str, region: str) -> str | None:
    """The rule for a text of digits, one + and punctuation."""
    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, PhoneNumberFormat.E164)


@functools.cache
def examples(region: str) -> tuple[phonenumbers.PhoneNumber, ...]:
    numbers = [phonenumbers.example_number_for_type(region, kind) for kind in PhoneNumberType.values()]
    return tuple(number for number in numbers if number is not None)


@functools.cache
def e164_examples() -> tuple[str, ...]:
    numbers = [number for region in REGIONS for number in examples(region)]
    codes = sorted(phonenumbers.COUNTRY_CODES_FOR_NON_GEO_REGIONS)
    numbers += [phonenumbers.example_number_for_non_geo_entity(code) for code in codes]
    return tuple(sorted({phonenumbers.format_number(number, PhoneNumberFormat.E164) for number in numbers}))


@functools.cache
def written_examples(region: str) -> tuple[str, ...]:
    """The region's example numbers in the ways in which people write them."""
    prefix = PhoneMetadata.metadata_for_region(region).national_prefix or ""
    texts = set()
    for number in examples(region):
        national = phonenumbers.national_significant_number(number)
        code = number.country_code
        texts |= {
            phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL),
            phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL),
            national,
            prefix + national,
            f"{code}{national}",
            f"{code}{prefix}{national}",
            f"+{code} ({prefix or 0}) {national}",
            f"(+{code}) {national[:3]}-{national[3:]}",
            f"00{code}{national}",
            f"011 {code} {national}",
        }
    return tuple(sorted(texts))


@pytest.mark.parametrize(
    ("text", "region", "expected"),
    [
        ("+14155550100", "US", "+14155550100"),
        ("(415) 555-0100", "US", "+14155550100"),
        ("415-555-0100", "US", "+14155550100"),
        ("415.555.0100", "CA", "+14155550100"),
        ("1 415 555 0100", "US", "+14155550100"),
        ("14155550100", "US", "+14155550100"),
        ("+1 (415) 555-0100", "DE", "+14155550100"),
        ("011 49 30 123456", "US", "+4930123456"),
        ("030 123456", "DE", "+4930123456"),
        ("0049 30/123456", "DE", "+4930123456"),
        ("020 7946 0958", "GB", "+442079460958"),
        ("+44 (0)20 7946 0958", "US", "+442079460958"),
        ("(+44) 20 7946 0958", "US", "+442079460958"),
        ("06 698 12345", "IT", "+390669812345"),
        ("+390669812345", "US", "+390669812345"),
        ("8 (912) 345-67-89", "RU", "+79123456789"),
        ("+54 9 11 2345-6789", "US", "+5491123456789"),
        ("011 15-2345-6789", "AR", "+5491123456789"),
        ("tel:+1-415-555-0100", "DE", "+14155550100"),
        ("415\u2013555\u20130100", "US", "+14155550100"),
        ("\uff14\uff11\uff15 \uff15\uff15\uff15 \uff10\uff11\uff10\uff10", "US", "+14155550100"),
        ("+80012345678", "US", "+80012345678"),
    ],
)
def test_a_valid_number_becomes_e164(text: str, region: str, expected: str) -> None:
    assert canonical(text, region=region) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "1",
        "555-0100",
        "+1415555010",
        "+141555501000",
        "+11155550100",
        "+0014155550100",
        "+999123456789",
        "415-555-0100 x12",
        "415-555-0100 ext. 12",
        "415-555-0100;ext=12",
        "415-555-0100,,12",
        "415-555-0100 - 503#",
        "415-555-0100~12",
        "+14155550100#12",
        "1-800-FLOWERS",
        "call 415-555-0100",
        "415-555-0100 (Ada)",
        "415-555-0100 / 415-555-0101",
        "415-555-0100 or 415-555-0101",
        "+1 415 +1 555 0100",
        "*67 415 555 0100",
        "0100;phone-context=+1415555",
        "020 7946 0958",
        "12345678901234567890",
        "4" * 300,
        "(415) 555-0100" + " " * 300 + ".",
    ],
)
def test_an_invalid_number_becomes_null(text: str) -> None:
    column = pa.array([text, "+14155550100", None])
    result = canonical_phones(column, "US")
    assert result.values.to_pylist() == [None, "+14155550100", None]
    assert result.invalid(column).to_pylist() == [True, False, False]


@pytest.mark.parametrize("region", ["", "us", "XX", "001", "ZZ"])
def test_an_unknown_region_is_an_error(region: str) -> None:
    with pytest.raises(ValueError, match="no phone numbers are known for region"):
        canonical_phones(pa.array(["+14155550100"]), region)


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    assert canonical(*texts) == texts


def test_a_slice_of_a_column_gives_the_slice_of_the_result() -> None:
    column = pa.array(["+14155550100", "x", None, "(415) 555-0100", "+390669812345"])
    sliced = canonical_phones(column.slice(1, 4), "US").values
    assert sliced.to_pylist() == [None, None, "+14155550100", "+390669812345"]


def test_the_same_national_number_means_another_number_in_another_region() -> None:
    text = "0201 2345678"
    assert canonical(text, region="DE") == ["+492012345678"]
    assert canonical(text, region="FR") == [None]
    assert canonical(text, region="DE") == ["+492012345678"]


def test_the_fast_check_accepts_the_example_numbers_of_all_calling_codes() -> None:
    texts = e164_examples()
    accepted = accepts_e164(pa.array(texts))
    left = {text for text, is_accepted in zip(texts, accepted, strict=True) if not is_accepted}
    stable = {text for text in left if by_library(text, "US") == text}
    # The library decides on numbers of less than seven digits.
    assert {text for text in stable if len(text) > 7} == set()


@pytest.mark.parametrize("region", ["US", "CA", "GB", "DE", "FR", "IT", "ES", "NL", "BR", "MX", "IN", "CN", "JP", "AU"])
def test_the_fast_check_accepts_national_forms(region: str) -> None:
    texts = [phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL) for number in examples(region)]
    replaced, certain = replace_written(pa.array(texts), region)
    expected = [phonenumbers.format_number(number, PhoneNumberFormat.E164) for number in examples(region)]
    assert [text for text, is_certain in zip(replaced.to_pylist(), certain, strict=True) if is_certain] == [
        text for text, is_certain in zip(expected, certain, strict=True) if is_certain
    ]
    assert certain.mean() > 0.8


def test_every_area_code_under_one_is_judged_as_the_library_does() -> None:
    texts = [f"+1{area}{rest}" for area in range(100, 1000) for rest in ("5550100", "0000000", "9999999")]
    assert canonical(*texts) == [by_library(text, "US") for text in texts]


def test_example_numbers_with_one_digit_changed_are_judged_as_the_library_does() -> None:
    texts = [
        text[:position] + digit + text[position + 1 :]
        for text in e164_examples()
        for position in range(1, len(text))
        for digit in "059"
    ]
    assert canonical(*texts) == [by_library(text, "US") for text in texts]


@pytest.mark.parametrize("region", REGIONS)
def test_all_spellings_of_numbers_are_read_as_the_library_does(region: str) -> None:
    texts = written_examples(region)
    assert canonical(*texts, region=region) == [by_library(text, region) for text in texts]


@st.composite
def mutated(draw: st.DrawFn, text: str, inserted: str) -> str:
    """The text with some characters changed, put in or taken out."""
    characters = list(text)
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(1, len(characters) - 1))
        match draw(st.sampled_from(["change", "change", "insert", "remove"])):
            case "change" if characters[position].isdigit():
                characters[position] = draw(st.sampled_from("0123456789"))
            case "insert":
                characters.insert(position, draw(st.sampled_from(inserted)))
            case "remove" if len(characters) > 4:
                del characters[position]
            case _:
                pass
    return "".join(characters)


@st.composite
def national_cases(draw: st.DrawFn) -> tuple[str, list[str]]:
    region = draw(st.sampled_from(REGIONS))
    some = st.sampled_from(written_examples(region)).flatmap(lambda text: mutated(text, "0123456789 -().+/"))
    return region, draw(st.lists(some, min_size=1, max_size=20))


@given(
    st.lists(
        st.deferred(lambda: st.sampled_from(e164_examples())).flatmap(lambda text: mutated(text, "0123456789")),
        min_size=1,
        max_size=30,
    )
)
def test_every_number_in_e164_is_judged_as_the_library_does(texts: list[str]) -> None:
    assert canonical(*texts) == [by_library(text, "US") for text in texts]
    accepted = pa.array(texts).filter(pa.array(accepts_e164(pa.array(texts)))).to_pylist()
    assert accepted == [by_library(text, "DE") for text in accepted]


@given(
    st.sampled_from(sorted(phonenumbers.COUNTRY_CODE_TO_REGION_CODE)),
    st.lists(st.from_regex(r"[0-9]{3,15}", fullmatch=True), min_size=1),
)
def test_any_digits_after_any_calling_code_are_judged_as_the_library_does(code: int, digits: list[str]) -> None:
    texts = [f"+{code}{text}" for text in digits]
    assert canonical(*texts) == [by_library(text, "US") for text in texts]


@given(national_cases())
def test_every_national_form_is_judged_as_the_library_does(case: tuple[str, list[str]]) -> None:
    region, texts = case
    # The kernel refuses a + in another place, although the library may read it.
    plain = [text for text in texts if "+" not in text.lstrip("(")[1:]]
    assert canonical(*plain, region=region) == [by_library(text, region) for text in plain]


@given(national_cases())
def test_the_canonical_form_of_a_canonical_form_is_itself(case: tuple[str, list[str]]) -> None:
    region, texts = case
    once = [text for text in canonical(*texts, region=region) if text is not None]
    assert canonical(*once, region=region) == once
    assert canonical(*once, region="US") == once
