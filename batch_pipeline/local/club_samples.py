"""Sample uploads of the demonstration's second organization, a club: its list of members is replaced and weeded out.

One story: a list with ten members in it twice; the next version, cut short by accident, which is refused, and then
whole; telephone numbers that ten addresses leave in doubt; the doubles deleted; the doubtful numbers tried again.
"""

import json

from batch_pipeline.batches.model import Stats
from batch_pipeline.local.sample_files import Expected, IdsFrom, RejectedFrom, Sample, csv_text

_COLUMNS = ("external_id", "name", "email", "address")
_MEMBERS = 1_200
_DOUBLES = 10  # the last of them are the first once more, under other numbers
_KEPT_WHEN_CUT = 400
_MOVED = range(201, 301)
_LEFT = range(801, 851)
_JOINED = range(1_201, 1_231)
_WITH_PHONE = 200
_NOBODYS_ID = "ctct_1111111111111111111111"


def make_club_samples() -> list[Sample]:
    """The club's files, in the order of the story; each waits for the one before."""
    members = [_member(number) for number in range(1, _MEMBERS + 1)]
    first = _list("members.csv", "merge", members, Expected(stats=Stats(created=_MEMBERS)))
    refused = Expected(status="failed", reason="delete_limit_exceeded")
    cut = _list("members.csv, cut short", "overwrite", members[:_KEPT_WHEN_CUT], refused, after=first.title)
    whole = _whole(members, after=cut.title)
    phones = _phones(after=whole.title)
    doubles = _doubles(of=whole.title, after=phones.title)
    again = Sample(
        "phones.json, its rejected",
        "contact/merge",
        "rejected.json",
        RejectedFrom(phones.title),
        Expected(stats=Stats(updated=_DOUBLES)),
        after=doubles.title,
        is_clubs=True,
    )
    return [first, cut, whole, phones, doubles, again]


def _whole(members: list[list[str]], *, after: str) -> Sample:
    """The next version: some have moved, some have left, some have joined."""
    rows = [list(row) for number, row in enumerate(members, start=1) if number not in _LEFT]
    for row in rows:
        if int(row[0].removeprefix("M-")) in _MOVED:
            row[3] = f"{row[3]}, second floor"
    rows += [_member(number) for number in _JOINED]
    stats = Stats(
        created=len(_JOINED),
        updated=len(_MOVED),
        unchanged=_MEMBERS - len(_LEFT) - len(_MOVED),
        overwritten=len(_LEFT),
    )
    return _list(
        "members.csv, whole", "overwrite", rows, Expected(stats=stats), after=after, options={"save_result": True}
    )


def _phones(*, after: str) -> Sample:
    """Telephone numbers by e-mail address; which of two members with the same address is meant, nobody can tell."""
    items = [
        {"email": _email(number), "phone": f"+1 415 555 0{number % 100 + 100}"} for number in range(1, _WITH_PHONE + 1)
    ]
    expected = Expected(
        stats=Stats(updated=_WITH_PHONE - _DOUBLES, rejected=_DOUBLES), codes={"ambiguous_match": _DOUBLES}
    )
    content = json.dumps(items, indent=1).encode()
    return Sample("phones.json", "contact/merge", "phones.json", content, expected, after=after, is_clubs=True)


def _doubles(*, of: str, after: str) -> Sample:
    """The doubles' ids, of which one stands there twice, and one that nobody has."""
    numbers = [_number(number) for number in range(_MEMBERS - _DOUBLES + 1, _MEMBERS + 1)]
    expected = Expected(stats=Stats(deleted=_DOUBLES, rejected=1, duplicates=1), codes={"id_not_found": 1})
    content = IdsFrom(of, (*numbers, numbers[0]), more=(_NOBODYS_ID,))
    return Sample("doubles.csv", "contact/delete", "doubles.csv", content, expected, after=after, is_clubs=True)


def _list(
    title: str,
    action: str,
    rows: list[list[str]],
    expected: Expected,
    *,
    after: str | None = None,
    options: dict[str, bool] | None = None,
) -> Sample:
    content = csv_text(_COLUMNS, rows).encode()
    return Sample(title, f"contact/{action}", "members.csv", content, expected, options, after, is_clubs=True)


def _member(number: int) -> list[str]:
    person = number - (_MEMBERS - _DOUBLES) if _MEMBERS - _DOUBLES < number <= _MEMBERS else number
    return [_number(number), f"Member {person:04}", _email(person), f"{person} Club Lane, Riverton"]


def _number(number: int) -> str:
    return f"M-{number:04}"


def _email(number: int) -> str:
    return f"member{number:04}@club.example.com"
