"""The FastAPI application: routes, error answers and the OpenAPI document, around one open service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

import httpx
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import Receive, Scope, Send

from batch_pipeline.api import document, files, health, history, metrics, routes, webhooks
from batch_pipeline.api.envelope import add_error_answers
from batch_pipeline.api.limits import RateLimits
from batch_pipeline.metrics.calls import call_seconds, scraped_calls
from batch_pipeline.metrics.scraping import Scraper
from batch_pipeline.notifications.background import notifying, open_people
from batch_pipeline.service.context import open_service
from batch_pipeline.settings import Settings, get_settings
from batch_pipeline.system import open_system

_DESCRIPTION = """
Bulk operations on logistics records. A batch has the items of the call, or a file that you send to a presigned URL; it
is validated, then processed. Send your key in the header `X-API-Key`. Every answer has the same envelope.
"""


def create_app(settings: Settings | None = None, *, warm_up: bool = True) -> FastAPI:
    """The application of one process; it opens the service at startup and closes it at shutdown.

    `warm_up`: the startup ends once the first call is as fast as later ones (`open_service`).

    Raises SettingError if BATCH_ALERT_URL is wrong.
    """
    settings = settings or get_settings()
    people = open_people(settings)
    seconds = call_seconds()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_service(settings, warm_up=warm_up) as service:
            # Webhooks, alerts and metrics are of all organizations, so they don't use the connections of calls.
            with open_system(settings) as whole, notifying(whole, people) as sender:
                app.state.service = service
                app.state.sender = sender
                app.state.scraper = scraper = Scraper(whole.engine, scraped_calls(seconds))
                app.state.scrape_limiter = CapacityLimiter(1)
                if warm_up:
                    _build_routes(app)
                    await _refuse_a_call(app)
                try:
                    yield
                finally:
                    scraper.close()

    app = FastAPI(
        title="batch_pipeline",
        summary="Batches of records: created, watched, cancelled and run again.",
        description=_DESCRIPTION,
        version=version("batch-pipeline"),
        lifespan=lifespan,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.limits = RateLimits(settings.api_requests_per_minute)
    routers = [
        *(module.router for module in (routes, files, history, webhooks, health)),
        *([metrics.router] if settings.metrics else []),
    ]
    for router in routers:
        app.include_router(router)
    app.state.routes = [route for router in routers for route in router.routes]
    app.add_middleware(metrics.TimedCalls, seconds=seconds)
    add_error_answers(app)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
            )
            schema["components"]["schemas"] |= document.create_definitions()
            app.openapi_schema = document.without_unused(schema)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # FastAPI's documented way to replace it
    return app


def _build_routes(app: FastAPI) -> None:
    """Has FastAPI build the routes of its routers and their models, which it else does for the first call."""
    nowhere = {"type": "http", "method": "GET", "path": "/", "headers": []}
    for route in app.routes:
        route.matches(nowhere)


async def _refuse_a_call(app: FastAPI) -> None:
    """Makes a call without a key, which no metric counts.

    For the first call of a function FastAPI looks at its source and its dependencies, which takes as long as a call.
    """

    async def uncounted(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, metrics.UNCOUNTED: True}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(uncounted), base_url="http://localhost") as client:
        await client.post("/v1/batches")
