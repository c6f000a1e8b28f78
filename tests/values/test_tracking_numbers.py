"""Tracking numbers: examples of the rule, and agreement of the fast checks with the library."""

import pyarrow as pa
import pytest
import tracking_numbers
from hypothesis import given
from hypothesis import strategies as st
from judging import judged, verdicts

from batch_pipeline.values.carriers import carrier_code, judge_number
from batch_pipeline.values.judged import Refusal
from batch_pipeline.values.tracking import accepts_tracking_numbers, canonical_tracking_numbers

# Numbers of the collection that the library's definitions come from, and of carriers' own documentation.
NUMBERS = [
    ("ups", "1Z5R89390357567127"),
    ("ups", "1Z879E930346834440"),
    ("ups", "1Z999AA10123456784"),
    ("usps", "03071790000523483741"),
    ("usps", "71969010756003077385"),
    ("usps", "9400111201080805483016"),
    ("usps", "9505511069605048600624"),
    ("usps", "420221539101026837331000039521"),
    ("usps", "92748931507708513018050063"),
    ("usps", "4201002334249200190132607600833457"),
    ("usps", "RB123456785GB"),
    ("fedex", "986578788855"),
    ("fedex", "041441760228964"),
    ("fedex", "9611020987654312345672"),
    ("fedex", "61299998820821171811"),
    ("fedex", "000123450000000027"),
    ("fedex", "1001921334250001000300779017972697"),
    ("dhl", "3318810025"),
    ("dhl", "73891051146"),
    ("ontrac", "C11031500001879"),
    ("s10", "RB123456785GB"),
]
WITHOUT_CHECK_DIGIT = [("amazon", "TBA000000000000"), ("cdl", "0123ABCDEF"), ("ups", "801234567890123456")]
CARRIERS = sorted({carrier for carrier, _ in NUMBERS})


def judged_of(carrier: str | None, *texts: str | None, sandbox: bool = False) -> list[str | Refusal | None]:
    return judged(
        lambda numbers: canonical_tracking_numbers(
            numbers, pa.repeat(pa.scalar(carrier, pa.string()), len(numbers)), sandbox=sandbox
        ),
        *texts,
    )


@pytest.mark.parametrize(("carrier", "number"), NUMBERS + WITHOUT_CHECK_DIGIT)
def test_a_carriers_number_is_accepted(carrier: str, number: str) -> None:
    assert judged_of(carrier, number, number.lower(), " ".join(number), number[:4] + "-" + number[4:]) == [number] * 4


@pytest.mark.parametrize(("carrier", "number"), NUMBERS)
def test_another_check_digit_is_a_wrong_checksum(carrier: str, number: str) -> None:
    at = 10 if number.endswith("GB") else len(number) - 1
    others = [number[:at] + digit + number[at + 1 :] for digit in "0123456789" if digit != number[at]]
    found = judged_of(carrier, *others)
    # Some numbers have the form of two of their carrier's formats.
    assert found.count(Refusal.CHECKSUM) >= 8
    assert Refusal.FORMAT not in found


@pytest.mark.parametrize(
    ("carrier", "text"),
    [
        ("ups", "2Z5R89390357567127"),
        ("ups", "1Z5R8939035756712"),
        ("ups", "123456789012"),
        ("usps", "1Z999AA10123456784"),
        ("usps", "12345678901234"),
        ("usps", "RB123456785ZZ"),
        ("fedex", "12345"),
        ("fedex", "TBA000000000000"),
        ("dhl", "123456789"),
        ("dhl", "1Z999AA10123456784"),
        ("amazon", "TBA00000000000"),
        ("cdl", "0123456789"),
        ("ontrac", "D11031500001879"),
    ],
)
def test_what_is_no_format_of_a_known_carrier_is_refused(carrier: str, text: str) -> None:
    assert judged_of(carrier, text) == [Refusal.FORMAT]


def test_a_letter_as_check_digit_is_a_wrong_checksum() -> None:
    assert judged_of("ups", "1Z999AA1012345678A") == [Refusal.CHECKSUM]


def test_a_ups_number_of_a_service_that_the_library_does_not_list_is_accepted() -> None:
    numbers = [f"1Z999AA1R32345678{digit}" for digit in range(10)]
    found = judged_of("ups", *numbers)
    assert found.count(Refusal.CHECKSUM) == 9
    assert len(set(found) & set(numbers)) == 1


@pytest.mark.parametrize("carrier", [None, "gls", "dhl_paket", "x", "ups_mail"])
def test_without_a_known_carrier_any_letters_and_digits_are_a_number(carrier: str | None) -> None:
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
def test_blanks_and_dashes_go_and_letters_and_digits_stay(text: str, expected: str | Refusal) -> None:
    assert judged_of(None, text, "ok12") == [expected, "OK12"]


@pytest.mark.parametrize("carrier", [None, "ups", "other"])
def test_a_sandbox_number_keeps_its_dashes_where_it_is_one(carrier: str | None) -> None:
    found = judged_of(carrier, "PKGX-ABCDEFG-1234567", "pkgx-abcdefg-1234567", sandbox=True)
    assert found == ["PKGX-ABCDEFG-1234567"] * 2


@pytest.mark.parametrize(
    "text", ["PKGX-ABCDEFG-123456", "PKGX-ABCDEFG1234567", "PKGX ABCDEFG 1234567", "PKGX-ABCDEF_-1234567"]
)
def test_what_only_resembles_a_sandbox_number_is_judged_as_any_other(text: str) -> None:
    assert judged_of("ups", text, sandbox=True) == [Refusal.FORMAT]


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
        ("Amazon Logistics", "amazon"),
        ("OnTrac", "ontrac"),
        ("dhl_paket", None),
        ("", None),
        ("üps", None),
    ],
)
def test_carriers_are_known_by_code_and_name(name: str, code: str | None) -> None:
    assert carrier_code(name) == code


def test_each_number_is_judged_by_its_own_carrier() -> None:
    numbers = pa.array(["1Z999AA10123456784", "3318810025", "3318810025", None, "3318810025", "3318810025"])
    carriers = pa.array(["UPS", "dhl", "ups", "ups", None, "fedex"])
    expected = ["1Z999AA10123456784", "3318810025", Refusal.FORMAT, None, "3318810025", Refusal.FORMAT]
    assert verdicts(canonical_tracking_numbers(numbers, carriers)) == expected
    assert verdicts(canonical_tracking_numbers(numbers.slice(2), carriers.slice(2))) == expected[2:]


@pytest.mark.parametrize("texts", [[], [None], [None, None]])
def test_columns_without_values_stay_as_they_are(texts: list[None]) -> None:
    column = pa.array(texts, pa.string())
    assert canonical_tracking_numbers(column, column).values.to_pylist() == texts


def library_takes(number: str, carrier: str) -> bool:
    """What the library itself says, of numbers that no definition stumbles on."""
    tests = [known.test(number) for known in tracking_numbers.DEFINITIONS if known.courier.code == carrier]
    return any(found is not None and found.valid for found in tests)


@st.composite
def near_numbers(draw: st.DrawFn, carrier: str) -> str:
    """A number of the carrier with some characters changed, and any last digit."""
    number = draw(st.sampled_from([number for code, number in NUMBERS if code == carrier]))
    characters = list(number)
    for position in draw(st.lists(st.integers(0, len(number) - 1), max_size=4)):
        characters[position] = draw(st.sampled_from("0123456789" if characters[position].isdigit() else "ABZ19"))
    characters[-1] = draw(st.sampled_from("0123456789"))
    return "".join(characters)


cases = st.sampled_from(CARRIERS).flatmap(
    lambda carrier: st.tuples(
        st.just(carrier),
        st.lists(near_numbers(carrier) | st.text("0123456789", min_size=9, max_size=34), min_size=1, max_size=40),
    )
)


@given(cases)
def test_the_fast_checks_accept_nothing_that_the_library_refuses(case: tuple[str, list[str]]) -> None:
    carrier, numbers = case
    accepted = accepts_tracking_numbers(pa.array(numbers), carrier)
    for number, is_accepted in zip(numbers, accepted, strict=True):
        assert not is_accepted or judge_number(number, carrier) is None
        if carrier not in ("ups", "usps", "dhl") and not number.endswith("GB"):
            assert (judge_number(number, carrier) is None) == library_takes(number, carrier)
        elif library_takes(number, carrier):
            assert judge_number(number, carrier) is None


@given(cases)
def test_the_canonical_form_of_a_canonical_form_is_itself(case: tuple[str, list[str]]) -> None:
    carrier, numbers = case
    once = judged_of(carrier, *numbers)
    assert once == [judge_number(number, carrier) or number for number in numbers]
    accepted = [verdict for verdict in once if isinstance(verdict, str)]
    assert judged_of(carrier, *accepted) == accepted


def test_the_fast_checks_accept_the_commonest_numbers() -> None:
    beyond = {number for carrier, number in NUMBERS if not accepts_tracking_numbers(pa.array([number]), carrier)[0]}
    common = {"1Z999AA10123456784", "9400111201080805483016", "986578788855", "041441760228964", "3318810025"}
    assert common & beyond == set()
    assert len(beyond) <= len(NUMBERS) // 2
