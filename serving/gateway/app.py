"""The HTTP application: routes, errors in OpenAI's shape, a line of log and a count for every request."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway.limits import ClientDisconnect, read_body
from serving.gateway.openai_api import MODEL, EmbeddingRequest, EmbeddingResponse, Error, Models, response
from serving.gateway.refusal import Refusal
from serving.gateway.service import Service
from serving.routes import Target

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
CLIENT_LEFT = 499
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error} for status in (400, 401, 404, 408, 413, 415, 429, 500, 503, 504)
}
Returned = TypeVar("Returned")
log = logging.getLogger("embedline.gateway")


@dataclass
class Record:
    """What is logged of a request: nothing of what it holds."""

    request_id: str
    began: float = field(default_factory=time.perf_counter)
    status: int = 0
    key: str | None = None
    items: int | None = None
    target: Target | None = None
    version: int | None = None
    code: str | None = None


def create_app(service: Service) -> ASGIApp:
    """Returns the application of a service, which starts and stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(title="Embedline gateway", lifespan=lifespan, redoc_url=None)

    @app.exception_handler(Refusal)
    async def refuse(request: Request, refusal: Refusal) -> Response:
        request.scope["record"].code = refusal.code
        return JSONResponse({"error": refusal.error}, refusal.status, refusal.headers)

    @app.exception_handler(StarletteHTTPException)
    async def refuse_http(_: Request, error: HTTPException) -> Response:
        refusal = Refusal(error.status_code, str(error.detail), code="http")
        return JSONResponse({"error": refusal.error}, refusal.status, error.headers)

    @app.exception_handler(Exception)
    async def fail(*_: object) -> Response:
        return JSONResponse({"error": Refusal(500, "this is a fault of ours; the log says more").error}, 500)

    @app.post(
        "/v1/embeddings",
        response_model=EmbeddingResponse,
        responses=ERRORS,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/EmbeddingRequest"}}},
            }
        },
    )
    async def embeddings(request: Request) -> Response:
        """Returns one vector an item, of length 1: texts, images, and both together."""
        record: Record = request.scope["record"]
        key = service.keys.authorise(request.headers.get("authorization"))
        record.key = key.name if key else None
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send application/json", code="content_type")
        async with read_body(request, service.settings, service.held) as body:
            done = await unless_client_leaves(request, service.embed(body, key, record.request_id))
            record.items, record.target, record.version = len(done.results), done.target, done.version
            content = response(done.results, f"{MODEL}/{done.version}", done.request.encoding_format)
        return Response(content, media_type="application/json", headers={"embedline-version": str(done.version)})

    @app.get("/v1/models", response_model=Models, responses=ERRORS)
    async def models(request: Request) -> Response:
        """Returns the models that a request may name."""
        service.keys.authorise(request.headers.get("authorization"))
        routes = service.router.routes
        versions = sorted({target.version for target in (routes.stable, routes.canary) if target and target.version})
        names = [MODEL, *(f"{MODEL}/{version}" for version in versions)]
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "embedline"} for name in names]
        return JSONResponse({"object": "list", "data": entries})

    @app.get("/v1/routes", responses=ERRORS)
    async def routes(request: Request) -> Response:
        """Returns which versions answer, and how each has done in its last requests."""
        service.keys.authorise(request.headers.get("authorization"))
        return JSONResponse(service.routes())

    @app.get("/healthz")
    async def health() -> Response:
        """Returns that the process lives."""
        return JSONResponse({"alive": True})

    @app.get("/readyz", responses={503: {}})
    async def ready() -> Response:
        """Returns whether the model answers, by a real inference that is at most a second old."""
        found = await service.readiness.read()
        return JSONResponse({**found, "waiting_items": service.batcher.waiting}, 200 if found["ready"] else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Returns the metrics for Prometheus."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    describe(app)
    return Recorded(app, service)


def describe(app: FastAPI) -> None:
    """Adds the body of a request, which the application reads by itself, to the OpenAPI page."""
    page = app.openapi()
    schema = EmbeddingRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    page["components"]["schemas"]["EmbeddingRequest"] = schema
    page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    page["security"] = [{"key": []}, {}]


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, Returned]) -> Returned:
    """Returns what the work does; ends it and raises `ClientDisconnect` when the client leaves before."""
    working = asyncio.create_task(work)
    leaving: asyncio.Task[Message] = asyncio.create_task(as_coroutine(request.receive()))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def as_coroutine(waited: Awaitable[Returned]) -> Returned:
    return await waited


class Recorded:
    """Gives every request its id, and writes what became of it."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = scope["record"] = Record(given_request_id(scope) or uuid.uuid4().hex)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            await send(message)

        trace: dict[str, Any] = {}
        try:
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            record.status = CLIENT_LEFT
            self.service.metrics.dropped.inc()
        except Exception as error:
            trace = {"error": type(error).__name__}
            log.exception("unexpected", extra={"facts": {"request_id": record.request_id}})
        self._write(scope, record, trace)

    def _write(self, scope: Scope, record: Record, more: dict[str, Any]) -> None:
        seconds = time.perf_counter() - record.began
        if scope["path"] == "/v1/embeddings":
            target = (record.target.model, record.version) if record.target else ("none", "none")
            self.service.metrics.requests.labels(*target, record.status).inc()
            self.service.metrics.seconds.labels(*target).observe(seconds)
            self.service.metrics.items.inc(record.items or 0)
        elif record.status < 400:
            return
        facts = {
            "request_id": record.request_id,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": record.status,
            "milliseconds": round(seconds * 1000, 2),
            "items": record.items,
            "version": record.version,
            "key": record.key,
            "code": record.code,
        }
        log.info("request", extra={"facts": {**facts, **more}})


def given_request_id(scope: Scope) -> str | None:
    """Returns the id that the client has given its request, if it is one that can be logged."""
    for name, value in scope["headers"]:
        text: str = value.decode("latin-1") if name == b"x-request-id" else ""
        if REQUEST_ID.fullmatch(text):
            return text
    return None


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json.dumps(facts)
