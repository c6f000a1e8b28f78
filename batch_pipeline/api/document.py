"""The parts of the OpenAPI document that the models lack: error answers, examples and rules across members."""

from typing import Any

from pydantic import BaseModel

from batch_pipeline.api.models import (
    SYNC_SECONDS,
    ApplyRequest,
    CreateBatch,
    ErrorEnvelope,
    PlanChangedEnvelope,
    RefusedEnvelope,
    RetryRequest,
    UndoRequest,
)
from batch_pipeline.batches.model import IfChanged
from batch_pipeline.records.registry import RESOURCES

_RETRY_AFTER = {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}}

_ERRORS: dict[int, tuple[str, str, str]] = {
    400: ("The body is not JSON", "malformed_json", "The body is not JSON: invalid character (byte 12)."),
    401: ("No key, or an unknown one", "unauthorized", "Send a key in the header X-API-Key."),
    404: ("Nothing of your organization has this id", "batch_not_found", "There is no batch of this id."),
    409: ("The batch's state or the idempotency key does not allow it", "not_cancellable",
          "Batch batch_… has ended already: it is completed."),
    413: ("Too large", "too_large", "Mode sync takes at most 1,000 items (BATCH_SYNC_MAX_ITEMS): use mode mixed."),
    415: ("The body is not declared as JSON", "unsupported_media_type",
          "Send the body as Content-Type: application/json, in UTF-8."),
    422: ("Wrong values, each named in `errors`", "invalid_request", "The request has wrong values."),
    429: ("Too many calls of the organization", "rate_limited", "More than 6,000 calls in a minute: try again in 1 s."),
    503: ("Database or storage can't be reached", "database_unavailable",
          "The database can't be reached at the moment: try again."),
}  # fmt: skip

_HEADERS = {
    401: {"WWW-Authenticate": {"description": "ApiKey", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def errors(*statuses: int, refused_payload: bool = False) -> dict[int | str, dict[str, Any]]:
    """Describes the error answers of a call. `refused_payload`: 422 may have the failed batch in `data`."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        description, code, message = _ERRORS[status]
        example = {
            "status": status,
            "message": message,
            "data": None,
            "errors": ["action: overwrite is not available for shipment"] if status == 422 else [message],
            "code": code,
            "pagination": None,
            "endpoint": "POST /v1/batches",
        }
        with_batch = refused_payload and status == 422
        described[status] = {
            "model": RefusedEnvelope if with_batch else ErrorEnvelope,
            "description": f"{description}; or a payload refused as a whole, with the failed batch in `data`"
            if with_batch
            else description,
            "content": {"application/json": {"example": example}},
        }
        if status in _HEADERS:
            described[status]["headers"] = _HEADERS[status]
    return described


def plan_changed() -> dict[str, Any]:
    """Describes the answer to an apply that the batch's state or its changed plan does not allow."""
    message = "The plan has changed since it was shown, so nothing was written: look at the new one in `data`."
    example = {
        "status": 409,
        "message": message,
        "data": None,
        "errors": [message],
        "code": "plan_changed",
        "pagination": None,
        "endpoint": "POST /v1/batches/batch_…/apply",
    }
    return {
        "model": PlanChangedEnvelope,
        "description": "The batch is not planned; or its plan has changed, with the batch in `data`",
        "content": {"application/json": {"example": example}},
    }


_ITEMS = {
    "summary": "Items; the answer comes once they are validated",
    "value": {
        "resource": "contact",
        "action": "merge",
        "data": [
            {"external_id": "crm-1", "name": "Ada Lovelace", "email": "ada@example.com"},
            {"external_id": "crm-2", "name": "Grace Hopper", "phone": "+14155550132"},
        ],
    },
}
_FILE = {
    "summary": "A file as data URL; the answer comes once it is processed",
    "value": {
        "resource": "contact",
        "action": "merge",
        "mode": "sync",
        "save_result": True,
        "data": "data:text/csv;base64,bmFtZSxlbWFpbApBZGEgTG92ZWxhY2UsYWRhQGV4YW1wbGUuY29tCg==",
    },
}
_UPLOAD = {
    "summary": "A file that you send to the URL in the answer",
    "value": {"resource": "contact", "action": "overwrite", "name": "all contacts", "delete_limit": "10%"},
}


def create_body() -> dict[str, Any]:
    """The body of a call that creates a batch."""
    schema = CreateBatch.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    # The actions of each resource; mode sync requires data and has a shorter time-out.
    actions = [
        {
            "properties": {
                "resource": {"const": name},
                "action": {"enum": sorted(action.value for action in resource.actions)},
            }
        }
        for name, resource in RESOURCES.items()
    ]
    sync_limits = {
        "required": ["data"],
        "properties": {
            "data": {"not": {"type": "null"}},
            "timeout_seconds": {"anyOf": [{"type": "null"}, {"type": "integer", "maximum": SYNC_SECONDS}]},
        },
    }
    schema["allOf"] = [
        {"anyOf": actions},
        {"anyOf": [{"properties": {"mode": {"const": "mixed"}}}, sync_limits]},
    ]
    content = {"schema": schema, "examples": {"items": _ITEMS, "file": _FILE, "upload": _UPLOAD}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def retry_body() -> dict[str, Any]:
    """The body of a call that runs a batch again."""
    schema = RetryRequest.model_json_schema()
    content = {"schema": schema, "examples": {"rejected": {"value": {"failed_rows": True}}}}
    return {"requestBody": {"required": False, "content": {"application/json": content}}}


def apply_body() -> dict[str, Any]:
    """The body of a call that applies a plan."""
    schema = ApplyRequest.model_json_schema()
    schema["properties"]["if_changed"] = {
        **schema.pop("$defs")["IfChanged"],
        "default": IfChanged.fail.value,
        "description": ApplyRequest.model_fields["if_changed"].description,
    }
    content = {"schema": schema, "examples": {"shown": {"value": {"if_changed": "fail"}}}}
    return {"requestBody": {"required": False, "content": {"application/json": content}}}


def undo_body() -> dict[str, Any]:
    """The body of a call that undoes a batch."""
    content = {"schema": UndoRequest.model_json_schema(), "examples": {"plan": {"value": {"plan_only": True}}}}
    return {"requestBody": {"required": False, "content": {"application/json": content}}}


def body_of(model: type[BaseModel], example: dict[str, Any], *, required: bool) -> dict[str, Any]:
    """The body that a model describes. Models that it refers to must be in the document by an answer."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    content = {"schema": schema, "examples": {"example": {"value": example}}}
    return {"requestBody": {"required": required, "content": {"application/json": content}}}


def without_unused(schema: dict[str, Any]) -> dict[str, Any]:
    """The document without FastAPI's own form of answers to wrong values, which this API does not use."""
    for methods in schema["paths"].values():
        for operation in methods.values():
            added = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(added.get("content")):
                del operation["responses"]["422"]
    schema["components"]["schemas"].pop("HTTPValidationError", None)
    schema["components"]["schemas"].pop("ValidationError", None)
    return schema


def create_definitions() -> dict[str, Any]:
    """The schemas that `create_body` refers to."""
    found: dict[str, Any] = CreateBatch.model_json_schema(ref_template="#/components/schemas/{model}").get("$defs", {})
    return found
