"""How many random examples a test has.

Examples are new in every run, so few of them in each run find what many would, only later. A number that an issue
demands is not chosen here: it stays in the test, with its reason.
"""

import hypothesis

THOROUGH = "thorough"  # the profile of a longer look: `pytest --hypothesis-profile thorough tests/model`


def examples(usual: int, *, thorough: int) -> int:
    """The number of examples in a usual run of the suite, and in one with the profile `THOROUGH`."""
    return thorough if hypothesis.settings.get_current_profile_name() == THOROUGH else usual
