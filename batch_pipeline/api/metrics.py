"""`GET /metrics` for Prometheus, without a key, and the timing of calls."""

import time
from http import HTTPStatus

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch_pipeline.metrics.scraping import MEDIA_TYPE, Scraper

router = APIRouter(include_in_schema=False)  # for operators, not for callers
UNCOUNTED = "batch_pipeline.uncounted"  # in the scope of a call that nobody made


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics. A scrape waits for the one before it."""
    scraper: Scraper = request.app.state.scraper
    limiter: CapacityLimiter = request.app.state.scrape_limiter  # of one thread, none of those that calls need
    text = await to_thread.run_sync(scraper.render, limiter=limiter)
    return Response(text, headers={"Content-Type": MEDIA_TYPE})


class TimedCalls:
    """ASGI middleware: observes how long each call takes, to the end of its answer, by route template and status."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the call on. A call that fails without an answer counts as 500, as its caller sees it."""
        if scope["type"] != "http" or UNCOUNTED in scope:
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            route = getattr(scope.get("route"), "path", "unmatched")  # never the path: it has ids, and anybody's text
            self._seconds.labels(route, str(status)).observe(time.perf_counter() - began)
