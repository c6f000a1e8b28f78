"""Progress of a phase."""

from dataclasses import dataclass, field

from batch_pipeline.batches.model import PhaseName


@dataclass(frozen=True)
class Progress:
    """How far a phase is, for display.

    Attributes:
        note: the current step if it is not counted in chunks: "planning …", "writing errors.csv, errors.json".
        done: items processed by this and earlier attempts.
        total: items to process; None if unknown or if the step counts no items.
        per_second: items that this attempt processes per second.
        chunk: chunks processed.
        chunks: chunks to process; None while unknown.
        workers: processes that did the processed chunks; 0 if unknown.
    """

    phase: PhaseName
    note: str = ""
    done: int = 0
    total: int | None = None
    per_second: float = field(default=0.0, compare=False)  # it changes even if nothing progresses
    chunk: int = 0
    chunks: int | None = None
    workers: int = 0

    @property
    def seconds_left(self) -> int | None:
        """Estimated seconds until all items are processed; None if unknown."""
        if self.total is None or self.per_second <= 0:
            return None
        return round(max(self.total - self.done, 0) / self.per_second)

    def __str__(self) -> str:
        if self.note and self.total is None:
            return f"{self.phase.value}: {self.note}"
        chunks = "" if self.chunks is None else f" of {self.chunks:,}"
        total = "" if self.total is None else f" of {self.total:,}"
        left = "" if self.seconds_left is None else f", about {self.seconds_left:,} s left"
        workers = f", by {self.workers:,} workers" if self.workers > 1 else ""
        return (
            f"{self.phase.value}: {self.note or f'chunk {self.chunk:,}{chunks}'}, {self.done:,}{total} rows, "
            f"{self.per_second:,.0f} a second{left}{workers}"
        )
