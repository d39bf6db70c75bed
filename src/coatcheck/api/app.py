"""The HTTP application: routes, the problem bodies of every refusal, OpenAPI, health and metrics."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from litestar import Litestar, Request, Response, get, route
from litestar.enums import HttpMethod, ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp, Receive, Scope, Send

from coatcheck.api.edge import (
    JSON,
    answer_coatcheck_error,
    answer_http_error,
    answer_unexpected,
    encode,
    failure_of,
    refusal_of,
)
from coatcheck.api.gateway import Gateway, gateway_of
from coatcheck.api.openapi import OPERATIONS
from coatcheck.api.payments import CHECKOUTS, take_checkout
from coatcheck.api.schema import openapi_json, schema_page
from coatcheck.api.status_page import get_status_page
from coatcheck.api.webhooks import receive_webhook
from coatcheck.errors import CoatcheckError
from coatcheck.metrics import CONTENT_TYPE, Metrics


@get("/health/live")
async def live() -> Response[bytes]:
    """Say that the process runs."""
    return Response(encode({"status": "live"}), media_type=JSON)


@get("/health/ready")
async def ready(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Say whether this process can take payments: not while it stops, not without its database."""
    gateway = gateway_of(request)
    if gateway.stopping.is_set():
        return Response(encode({"status": "stopping"}), status_code=503, media_type=JSON)
    try:
        await gateway.store.pool.fetchval("SELECT 1", timeout=2)
    except Exception:  # noqa: BLE001 - whatever keeps the database away, the answer is the same
        return Response(encode({"status": "no database"}), status_code=503, media_type=JSON)
    return Response(encode({"status": "ready"}), media_type=JSON)


@get("/metrics")
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Print the figures for Prometheus; what the database knows is read at each scrape."""
    gateway = gateway_of(request)
    await gateway.operations.count(gateway.metrics)
    await gateway.inbox.count()
    return Response(gateway.metrics.render(), media_type=CONTENT_TYPE)


class CountRequests:
    """Counts requests and their time by route template and status, around everything else."""

    def __init__(self, app: ASGIApp, figures: Metrics) -> None:
        self._app = app
        self._metrics = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count its answer."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        if b"%2f" in scope["raw_path"].lower():
            # A shop's own id may hold a slash (%2F): the way is found by the path as sent, the id decoded afterwards.
            scope["path"] = scope["raw_path"].decode("latin-1")
        started = perf_counter()
        status = "500"

        async def counted_send(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counted_send)
        finally:
            route = str(scope.get("path_template") or "unknown")
            self._metrics.http_requests[route, status].inc()
            self._metrics.http_seconds[route].observe(perf_counter() - started)


class CheckoutsFirst:
    """Takes checkouts past the framework, whose share of a payment would be a twelfth; all else is the framework's.

    docs/decisions/0025-checkouts-past-the-framework.md has the figures.
    """

    def __init__(self, gateway: Gateway, framework: ASGIApp) -> None:
        self._gateway = gateway
        self._framework = framework

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a checkout as the framework would: what is raised becomes the same problem bodies."""
        if scope["path"] != CHECKOUTS or scope["method"] != HttpMethod.POST:  # type: ignore[typeddict-item]
            await self._framework(scope, receive, send)
            return
        scope["path_template"] = CHECKOUTS
        try:
            answer = await take_checkout(self._gateway, scope, receive)
        except CoatcheckError as error:
            answer = refusal_of(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the shop must hear that it may ask again
            answer = failure_of(CHECKOUTS, error)
        await answer(scope, receive, send)


_HANDLERS = (
    live,
    ready,
    metrics,
    openapi_json,
    schema_page,
    receive_webhook,
    get_status_page,
    *[operation.handler for operation in OPERATIONS],
)


def _methods_handler(handlers: Sequence[HTTPRouteHandler]) -> HTTPRouteHandler:
    """Make the handler of OPTIONS for all addresses: the framework's own forgets an address's second handler."""
    methods: dict[str, set[str]] = {}
    for handler in handlers:
        for path in handler.paths:
            methods.setdefault(path, {"OPTIONS"}).update(handler.http_methods)
    allowed = {path.replace(":str}", "}"): ", ".join(sorted(methods[path])) for path in methods}

    @route(list(methods), http_method=HttpMethod.OPTIONS, status_code=204)
    async def list_methods(request: Request[Any, Any, Any]) -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": allowed[request.scope["path_template"]]})

    return list_methods


def create_app(gateway: Gateway) -> ASGIApp:
    """Build the application around a running gateway."""
    litestar = Litestar(
        route_handlers=[_methods_handler(_HANDLERS), *_HANDLERS],
        exception_handlers={
            CoatcheckError: answer_coatcheck_error,
            HTTPException: answer_http_error,
            Exception: answer_unexpected,
        },
        openapi_config=None,  # the document is our own: handlers take the raw request, so none could be guessed
        logging_config=None,
    )
    litestar.state.gateway = gateway
    return CountRequests(CheckoutsFirst(gateway, litestar), gateway.metrics)
