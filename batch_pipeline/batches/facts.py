"""What a batch's phases hand to each other beside their files, stored in the ledger as one JSON object."""

import json
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

# The value of the option `column_mapping` that applies the mapping of an earlier batch with the same header.
REMEMBERED: Literal["remembered"] = "remembered"


@dataclass(frozen=True)
class ArtifactProgress:
    """Progress of writing artifacts. It belongs to no phase and has its own times.

    Attributes:
        files: names of the files that are written together: "errors.csv, errors.json".
        total: rows to read; the files hold at most as many.
        done: rows read so far.
        started_at: epoch seconds.
        ended_at: epoch seconds; None until the files are in storage.
    """

    files: str
    total: int
    started_at: float
    done: int = 0
    ended_at: float | None = None

    @property
    def seconds(self) -> float | None:
        """Duration of writing; None until it ends."""
        return None if self.ended_at is None else self.ended_at - self.started_at


@dataclass(frozen=True)
class BatchFacts:
    """What a batch's phases hand to each other beside their files: facts that a later attempt needs again.

    Attributes:
        format: payload format, as detected.
        decoded_bytes: size of the readable cells as read (`RawChunk.decoded_bytes`).
        compressed: whether the upload is compressed.
        columns: the upload's own column names, in order; for JSON the union of the items' fields.
        items: items read, unreadable ones and equal ones included; of an undo its lines (see `loading.undo_lines`).
        unreadable: items rejected while reading.
        equal: equal items dropped.
        chunks: number of parsed chunk files.
        fields: record columns that validation staged.
        clears: whether any staged item clears a field.
        kinds: kinds of deciding keys that staged items have (see `loading.identity`); None: not known.
        accepted: items that the plan accepts, those of finished chunks included; None: no plan was made, or by an
            earlier release, which did not keep the number.
        accepts_valid: whether the plan accepts each item that the row rules accept.
        rejected: items rejected by the last plan made before a chunk was written, unreadable ones included.
        to_delete: number of records that an overwrite's cleanup or an undo is to delete.
        unidentified: overwrite: rejected items without a readable key; if there are any, nothing is deleted.
        shares_staging: whether the batch's staged rows are in tables that small batches share.
        artifacts: writing of artifacts by the newest attempt that wrote them, in the order in which it began.
        remembered: the remembered mapping that parsing applied; None unless the batch asked for it.
        warnings: what its sender should know about the upload, without customers' values.
    """

    format: str = ""
    decoded_bytes: int = 0
    compressed: bool = False
    columns: tuple[str, ...] = ()
    items: int = 0
    unreadable: int = 0
    equal: int = 0
    chunks: int = 0
    fields: tuple[str, ...] = ()
    clears: bool = False
    kinds: tuple[int, ...] | None = None
    accepted: int | None = None
    accepts_valid: bool = False
    rejected: int = 0
    to_delete: int = 0
    unidentified: int = 0
    shares_staging: bool = False
    artifacts: tuple[ArtifactProgress, ...] = ()
    remembered: dict[str, str] | None = None
    warnings: tuple[dict[str, str], ...] = ()

    def to_row(self) -> dict[str, Any]:
        """The facts as stored. Columns are one JSON text: jsonb can't hold the NUL that a JSON name may have."""
        artifacts = [vars(each) for each in self.artifacts]  # `asdict` copies deeply
        return {**vars(self), "columns": json.dumps(self.columns), "artifacts": artifacts}

    @classmethod
    def from_row(cls, data: dict[str, Any]) -> Self:
        """The inverse of `to_row`."""
        artifacts = tuple(ArtifactProgress(**each) for each in data.get("artifacts", ()))
        data = {**data, "columns": json.loads(data["columns"]), "artifacts": artifacts}
        known = cls.__dataclass_fields__
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items() if k in known}
        return cls(**values)

    def with_(self, **changes: Any) -> Self:
        """A copy with some values changed."""
        return replace(self, **changes)

    def with_artifact(self, progress: ArtifactProgress) -> Self:
        """A copy in which this progress replaces the progress of the same files."""
        others = (each for each in self.artifacts if each.files != progress.files)
        return replace(self, artifacts=(*others, progress))
