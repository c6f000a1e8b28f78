"""How many random examples a test has.

Examples are new in every run, so few of them in each run find what many would, only later. `make test-thorough` looks
longer. A test without a number of its own has that of the profile (`tests/conftest.py`).
"""

import hypothesis

USUAL = "usual"
THOROUGH = "thorough"  # the profile of a longer look: `pytest --hypothesis-profile thorough tests/model`


def examples(usual: int, *, thorough: int) -> int:
    """The number of examples in a usual run of the suite, and in one with the profile `THOROUGH`."""
    return thorough if hypothesis.settings.get_current_profile_name() == THOROUGH else usual
