"""The files a batch leaves for people: rejected items with their errors, outcomes, the upload in other formats.

The contract of each file (order, guard against formulas, what stands for what) is told by the writer's
docstring.
"""

from batch_pipeline.payloads.artifacts.columns import flattened_columns
from batch_pipeline.payloads.artifacts.copies import write_csv_copy, write_json_copy
from batch_pipeline.payloads.artifacts.errors import ErrorsWriter
from batch_pipeline.payloads.artifacts.plan_lines import PLAN_SCHEMA, PlanWriter
from batch_pipeline.payloads.artifacts.rejected import RejectedChunk
from batch_pipeline.payloads.artifacts.result import RESULT_SCHEMA, UNDO_RESULT_SCHEMA, ResultWriter

__all__ = [
    "PLAN_SCHEMA",
    "RESULT_SCHEMA",
    "UNDO_RESULT_SCHEMA",
    "ErrorsWriter",
    "PlanWriter",
    "RejectedChunk",
    "ResultWriter",
    "flattened_columns",
    "write_csv_copy",
    "write_json_copy",
]
