"""Tracking numbers: published numbers of each carrier, and the rule for numbers in general."""

import csv
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import judged, verdicts

from batch_pipeline.values.carriers import Format, carrier_code, carriers
from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.tracking import canonical_tracking_numbers

# "other format" in the column `expected`: the source says that the number does not have this format. It is accepted,
# like any number in no known format.
with (Path(__file__).parent / "tracking_number_examples.csv").open(encoding="utf-8") as lines:
    EXAMPLES = list(csv.DictReader(lines))
PUBLISHED = [(example["carrier"], example["number"]) for example in EXAMPLES]
FORMATS = [(carrier.code, known) for carrier in carriers().values() for known in carrier.formats]


def judged_of(carrier: str | None, *texts: str | None, sandbox: bool = False) -> list[str | Refusal | None]:
    return judged(
        lambda numbers: canonical_tracking_numbers(
            numbers, pa.repeat(pa.scalar(carrier, pa.string()), len(numbers)), sandbox=sandbox
        ),
        *texts,
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"{example['carrier']} {example['number']}")
def test_a_published_number_is_judged_as_its_source_says(example: dict[str, str]) -> None:
    number = example["number"]
    canonical = number.replace("-", "").upper()
    expected = Refusal.CHECKSUM if example["expected"] == "wrong check digit" else canonical
    spelled = [number, number.lower(), " ".join(number), number[:4] + "-" + number[4:]]
    assert judged_of(example["carrier"], *spelled) == [expected] * 4


@pytest.mark.parametrize(("carrier", "known"), FORMATS, ids=lambda value: getattr(value, "name", value))
def test_any_other_check_digit_is_wrong(carrier: str, known: Format) -> None:
    number = known.example
    at = len(number) - known.after - 1
    others = [number[:at] + digit + number[at + 1 :] for digit in "0123456789" if digit != number[at]]
    found = judged_of(carrier, number, *others)
    assert found[0] == number
    # Other digits can be right for another format of the carrier.
    assert found.count(Refusal.CHECKSUM) >= len(others) - 1
    assert judged_of(None, *others) == others


@pytest.mark.parametrize("known", [known for _, known in FORMATS], ids=lambda known: known.name)
def test_each_format_has_examples_with_a_right_and_a_wrong_check_digit(known: Format) -> None:
    numbers = pa.array([number for _, number in PUBLISHED])
    is_right, is_wrong = known.judge(numbers)
    assert known.example in numbers.filter(pa.array(is_right)).to_pylist()
    assert is_wrong.any()


@pytest.mark.parametrize("carrier", ["ups", "usps", "fedex", "dhl", "ontrac", "s10", "amazon", "CDL", None, "gls"])
def test_an_unknown_format_of_a_carrier_is_accepted_as_without_a_carrier(carrier: str | None) -> None:
    texts = ["abcd", "12345", "PKGX-ABCDEFG-1234567", "A1" * 25]
    assert judged_of(carrier, *texts) == ["ABCD", "12345", "PKGXABCDEFG1234567", "A1" * 25]
    assert judged_of(carrier, "abc", "a" * 51, "ab_cd") == [Refusal.TOO_SHORT, Refusal.TOO_LONG, Refusal.FORMAT]


def test_one_format_with_the_right_check_digit_is_enough() -> None:
    # 20 digits are read without and with an implied 91: the first number is right without it, the second with it.
    numbers = ["70160910000108310009", "71969010756003077385"]
    assert judged_of("usps", *numbers) == numbers
    # After 420 comes a ZIP code of nine or five digits.
    numbers = ["4201002334249200190132607600833457", "420221539101026837331000039521"]
    assert judged_of("usps", *numbers) == numbers


def test_a_letter_as_check_digit_is_a_wrong_checksum() -> None:
    assert judged_of("ups", "1Z999AA1012345678A") == [Refusal.CHECKSUM]


def test_a_ups_number_of_any_service_is_accepted() -> None:
    numbers = [f"1Z999AA1R32345678{digit}" for digit in range(10)]
    found = judged_of("ups", *numbers)
    assert found.count(Refusal.CHECKSUM) == 9
    assert len(set(found) & set(numbers)) == 1


@pytest.mark.parametrize("carrier", [None, "gls", "dhl_paket", "amazon", "x", "ups_mail"])
def test_without_a_known_carrier_any_letters_and_digits_are_accepted(carrier: str | None) -> None:
    assert judged_of(carrier, "abcd", "ab-cd 12", "1Z999AA10123456785") == ["ABCD", "ABCD12", "1Z999AA10123456785"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 2\u00a03\u20094", "1234"),
        ("12\u201334\u20145\u22126", "123456"),
        ("a" * 50, "A" * 50),
        ("- " * 500 + "abcd", "ABCD"),
        ("abc", Refusal.TOO_SHORT),
        ("a-b c", Refusal.TOO_SHORT),
        ("---", Refusal.TOO_SHORT),
        ("a" * 51, Refusal.TOO_LONG),
        ("a" * 1_000_000, Refusal.TOO_LONG),
        ("ab_cd", Refusal.FORMAT),
        ("1234/5678", Refusal.FORMAT),
        ("größe1", Refusal.FORMAT),
        ("\uff11\uff12\uff13\uff14", Refusal.FORMAT),
        ("١٢٣٤", Refusal.FORMAT),
        ("ab#", Refusal.FORMAT),
        ("PKGX-ABCDEFG-1234567", "PKGXABCDEFG1234567"),
    ],
)
def test_blanks_and_dashes_are_removed(text: str, expected: str | Refusal) -> None:
    assert judged_of(None, text, "ok12") == [expected, "OK12"]


@pytest.mark.parametrize("carrier", [None, "ups", "other"])
def test_a_sandbox_number_keeps_its_dashes_where_it_is_one(carrier: str | None) -> None:
    found = judged_of(carrier, "PKGX-ABCDEFG-1234567", "pkgx-abcdefg-1234567", sandbox=True)
    assert found == ["PKGX-ABCDEFG-1234567"] * 2


@pytest.mark.parametrize(
    "text", ["PKGX-ABCDEFG-123456", "PKGX-ABCDEFG1234567", "PKGX ABCDEFG 1234567", "PKGX-ABCDEF-1234567"]
)
def test_a_number_similar_to_a_sandbox_number_is_judged_as_any_other(text: str) -> None:
    assert judged_of("ups", text, sandbox=True) == [text.replace("-", "").replace(" ", "")]
    assert judged_of("ups", "PKGX-ABCDEF_-1234567", sandbox=True) == [Refusal.FORMAT]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UPS", "ups"),
        ("United Parcel Service", "ups"),
        ("usps", "usps"),
        ("United States Postal Service", "usps"),
        ("FedEx", "fedex"),
        ("fed_ex", "fedex"),
        ("DHL Express", "dhl"),
        ("dhl-express", "dhl"),
        ("OnTrac", "ontrac"),
        ("UPU S10", "s10"),
        ("Amazon Logistics", None),
        ("dhl_paket", None),
        ("", None),
        ("üps", None),
    ],
)
def test_carriers_are_known_by_code_and_name(name: str, code: str | None) -> None:
    assert carrier_code(name) == code


def test_each_number_is_judged_by_its_own_carrier() -> None:
    numbers = pa.array(["1Z999AA10123456784", "3318810025", "3318810026", None, "3318810026", "3318810026"])
    names = pa.array(["UPS", "dhl", "DHL", "ups", None, "fedex"])
    expected = ["1Z999AA10123456784", "3318810025", Refusal.CHECKSUM, None, "3318810026", "3318810026"]
    assert verdicts(canonical_tracking_numbers(numbers, names)) == expected
    assert verdicts(canonical_tracking_numbers(numbers.slice(2), names.slice(2))) == expected[2:]


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    column = pa.array(texts, pa.string())
    assert canonical_tracking_numbers(column, column).values.to_pylist() == texts


@st.composite
def near_numbers(draw: st.DrawFn) -> tuple[str, str]:
    """A published number with some characters changed, and its carrier."""
    carrier, number = draw(st.sampled_from(PUBLISHED))
    characters = list(number)
    for position in draw(st.lists(st.integers(0, len(number) - 1), max_size=4)):
        characters[position] = draw(st.sampled_from("0123456789" if characters[position].isdigit() else "ABZ19"))
    return carrier, "".join(characters)


@given(st.lists(near_numbers(), min_size=1, max_size=40))
def test_each_number_is_judged_independently_of_the_others(cases: list[tuple[str, str]]) -> None:
    codes, texts = zip(*cases, strict=True)
    together = verdicts(canonical_tracking_numbers(pa.array(texts), pa.array(codes)))
    assert together == [judged_of(carrier, text)[0] for carrier, text in cases]
    for carrier, verdict in zip(codes, together, strict=True):
        assert verdict is Refusal.CHECKSUM or judged_of(carrier, str(verdict)) == [verdict]
