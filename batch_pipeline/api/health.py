"""Liveness and readiness checks, without a key."""

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import Response

from batch_pipeline.api import document
from batch_pipeline.api.envelope import answer
from batch_pipeline.api.models import Envelope, HealthOut
from batch_pipeline.api.routes import Served
from batch_pipeline.database import borrowed, translating_outages
from batch_pipeline.loading.log_support import log_refusal
from batch_pipeline.system import System

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Alive", response_model=Envelope[HealthOut])
async def healthz(request: Request) -> Response:
    """The process answers."""
    return answer(request, HTTPStatus.OK, "Alive.", data={"healthy": True})


@router.get("/readyz", summary="Able to work", response_model=Envelope[HealthOut], responses=document.errors(503))
async def readyz(request: Request, service: Served) -> Response:
    """Database and storage can be reached. The message names what the database can't do."""
    message = await service.in_thread(_check, service.system)
    return answer(request, HTTPStatus.OK, message, data={"healthy": True})


def _check(system: System) -> str:
    with translating_outages(), borrowed(system.engine) as connection:
        connection.execute("SELECT")
        missing = log_refusal(connection)
    system.store.check()
    return "Database and storage can be reached." if missing is None else f"Able to work. {missing.message}"
