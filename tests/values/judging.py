"""The results of kernels as plain values."""

from collections.abc import Callable

import pyarrow as pa

from batch_pipeline.values.judged import Judged, Refusal

Kernel = Callable[[pa.StringArray], Judged]


def verdicts(result: Judged) -> list[str | Refusal | None]:
    """For each value its canonical form, the reason of its refusal, or None for null."""
    answers: list[str | Refusal | None] = []
    for index, value in enumerate(result.values.to_pylist()):
        reasons = [reason for reason, mask in result.refused.items() if mask[index]]
        assert len(reasons) <= (1 if value is None else 0)
        answers.append(reasons[0] if reasons else value)
    return answers


def judged(kernel: Kernel, *texts: str | None) -> list[str | Refusal | None]:
    """The verdicts on texts in a slice of a longer column: a kernel must respect the offset."""
    column = pa.array(["?", *texts, None], pa.string()).slice(1)
    result = kernel(column)
    assert result.invalid().to_pylist() == [isinstance(verdict, Refusal) for verdict in verdicts(result)]
    found = verdicts(result)
    assert found.pop() is None
    return found
