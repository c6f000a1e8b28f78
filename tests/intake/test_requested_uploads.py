"""Files sent to upload URLs: each reaches its batch, or the batch expires, even if other files fail."""

import pytest
from batch_runs import awaiting_upload

from batch_pipeline.errors import UnavailableError
from batch_pipeline.intake.requested_uploads import expire_requested, take_in_requested
from batch_pipeline.storage import keys
from batch_pipeline.storage.store import Store
from batch_pipeline.system import System

FAULTS = [UnavailableError("storage", "Storage refuses access to it."), ZeroDivisionError("nobody foresaw it")]


def _failing(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, *failing: str) -> None:
    """This method of the store fails for these keys."""
    real = getattr(Store, method)

    def fails(store: Store, key: str, *rest: str) -> object:
        if key in failing:
            raise error
        return real(store, key, *rest)

    monkeypatch.setattr(Store, method, fails)


@pytest.mark.parametrize("error", FAULTS, ids=type)
def test_a_file_that_can_not_be_taken_in_does_not_block_others(
    system: System, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    first, second, third = sorted(awaiting_upload(system, "default").id for _ in range(3))
    for batch_id in (first, second, third):
        system.store.write(keys.requested(batch_id), b"name\nAda\n")
    with monkeypatch.context() as patch:
        _failing(patch, "copy", error, keys.requested(first))

        taken, removed = take_in_requested(system, limit=10)

        assert ([batch.id for batch in taken], removed) == ([second, third], [])
        assert keys.requested(first) in caplog.text
        assert [found.key for found in system.store.list("requested/")] == [keys.requested(first)]
        with pytest.raises(type(error)):
            take_in_requested(system, limit=10)  # nothing else is there: it is said, not passed over

    assert [batch.id for batch in take_in_requested(system, limit=10)[0]] == [first]
    assert system.store.list("requested/") == []


@pytest.mark.parametrize("error", FAULTS, ids=type)
def test_a_batch_that_can_not_be_expired_does_not_block_others(
    system: System, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    stuck, *others = (awaiting_upload(system, "default", seconds=-1).id for _ in range(4))
    awaiting_upload(system, "default")
    with monkeypatch.context() as patch:
        _failing(patch, "stat", error, keys.requested(stuck))

        assert {batch.id for batch in expire_requested(system, limit=10)} == set(others)
        with pytest.raises(type(error)):
            expire_requested(system, limit=10)

    assert [batch.id for batch in expire_requested(system, limit=10)] == [stuck]
    assert expire_requested(system, limit=10) == []


def test_a_pass_is_bounded_in_number_and_in_time(system: System) -> None:
    late = {awaiting_upload(system, "default", seconds=-1).id for _ in range(4)}
    expired = [
        len(expire_requested(system, limit=2)),
        *(len(expire_requested(system, limit=9, seconds=0)) for _ in late),
    ]
    assert expired == [2, 1, 1, 0, 0]

    for _ in range(4):
        system.store.write(keys.requested(awaiting_upload(system, "default").id), b"name\nAda\n")
    taken = [
        len(take_in_requested(system, limit=2)[0]),
        *(len(take_in_requested(system, limit=9, seconds=0)[0]) for _ in late),
    ]
    assert taken == [2, 1, 1, 0, 0]
