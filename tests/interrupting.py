"""A signal at a moment at which Python drops the exception of its handler."""

import signal
import weakref


class _Referent:
    """What a weak reference can refer to."""


def interrupt_in_callback(number: signal.Signals = signal.SIGINT) -> None:
    """The signal arrives while a weak reference's callback runs, as in a garbage collection."""
    referent = _Referent()
    reference = weakref.ref(referent, lambda _: signal.raise_signal(number))
    del referent
    assert reference() is None
