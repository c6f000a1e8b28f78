"""The call that opens a batch's errors file, for people who follow a link of the Dagster UI.

A browser can't send the header X-API-Key for a link. So this call also takes the key as the password of HTTP Basic
authentication, for which every browser asks. The link itself holds no secret.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from batch_pipeline.api import document
from batch_pipeline.api.envelope import UnauthorizedError, answer
from batch_pipeline.api.limits import RateLimits
from batch_pipeline.api.routes import KEY_HEADERS, BatchId, Served, find_caller, refuse_repeated
from batch_pipeline.service import changing
from batch_pipeline.service.creating import Caller
from batch_pipeline.service.urls import ERRORS_URL_SECONDS, errors_url

router = APIRouter(prefix="/v1/batches", tags=["batches"])

CHALLENGE = 'Basic realm="the password is an API key of the batch\'s organization", charset="UTF-8"'

_BASIC = HTTPBasic(scheme_name="key as password", description="Any user name", auto_error=False)


async def authenticate_person(
    request: Request,
    service: Served,
    key: Annotated[str | None, Depends(KEY_HEADERS[0])],
    other_key: Annotated[str | None, Depends(KEY_HEADERS[1])],
    basic: Annotated[HTTPBasicCredentials | None, Depends(_BASIC)],
) -> Caller:
    """The caller of the key in a header, or in the password; counts the call.

    Raises UnauthorizedError with a challenge for which browsers ask for the password, and RateLimitedError.
    """
    sent = key or other_key or (basic.password if basic is not None else None)
    if not sent:
        raise UnauthorizedError("Send a key in the header X-API-Key, or as the password.", CHALLENGE)
    caller = await find_caller(service, sent)
    if caller is None:
        raise UnauthorizedError("The key is unknown or revoked.", CHALLENGE)
    limits: RateLimits = request.app.state.limits
    limits.take(caller.organization_id)
    return caller


@router.get(
    "/{batch_id}/errors.csv",
    summary="Open the errors file",
    status_code=307,
    response_model=None,
    responses={
        307: {
            "description": f"The file is at `Location`, a URL for it alone, valid for {ERRORS_URL_SECONDS} s",
            "headers": {"Location": {"schema": {"type": "string", "format": "uri"}}},
        },
        **document.errors(401, 404, 422, 429, 503),
    },
    dependencies=[Depends(refuse_repeated)],
)
async def open_errors(
    request: Request, service: Served, caller: Annotated[Caller, Depends(authenticate_person)], batch_id: BatchId
) -> Response:
    """Redirects to a URL of the batch's rejected items as CSV. The key may also be the password of a browser."""
    batch = await changing.find_batch(service, caller, batch_id)
    url = await service.in_thread(errors_url, service, batch)
    return answer(
        request,
        HTTPStatus.TEMPORARY_REDIRECT,
        "The errors file is at the URL in the header Location.",
        headers={"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"},
    )
