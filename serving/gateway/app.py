"""The HTTP application: routes, errors in OpenAI's shape, a line of log and a count for every request."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway import log, traces
from serving.gateway.limits import ClientDisconnect, header, read_body
from serving.gateway.openai_api import (
    MODEL,
    EmbeddingRequest,
    EmbeddingResponse,
    Error,
    Models,
    Taken,
    response,
)
from serving.gateway.refusal import Refusal
from serving.gateway.service import Service
from serving.routes import Target

REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
CLIENT_LEFT = 499
EMBEDDINGS = "/v1/embeddings"
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error} for status in (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
}
Returned = TypeVar("Returned")


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

    app.add_exception_handler(Refusal, refused)

    @app.exception_handler(StarletteHTTPException)
    async def refuse_http(_: Request, error: HTTPException) -> Response:
        refusal = Refusal(error.status_code, str(error.detail), code="http")
        return JSONResponse({"error": refusal.error}, refusal.status, error.headers)

    @app.exception_handler(Exception)
    async def fail(*_: object) -> Response:
        return failed()

    @app.post(
        EMBEDDINGS,
        response_model=EmbeddingResponse,
        responses=ERRORS,
        openapi_extra=body_of(EmbeddingRequest),
    )
    async def embeddings(request: Request) -> Response:
        """Returns one vector an item, of length 1: texts, images, and both together."""
        record: Record = request.scope["record"]
        key = service.keys.authorise(header(request, b"authorization"))
        record.key = key.name if key else None
        if header(request, b"content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "send application/json", code="content_type")
        body = await read_body(request, service.settings, service.held)
        try:
            done = await unless_left(request.scope["client_left"], service.embed(body, key, record.request_id))
            record.items, record.target, record.version = len(done.results), done.target, done.version
            content = response(done.results, f"{MODEL}/{done.version}", done.request.encoding_format)
        finally:
            service.held.give_back(len(body))
        return Response(content, media_type="application/json", headers={"embedline-version": str(done.version)})

    @app.post("/v1/feedback", status_code=202, responses=ERRORS, openapi_extra=body_of(Taken))
    async def feedback(request: Request) -> Response:
        """Takes which hit of a search the user took, or that none was right."""
        service.keys.authorise(header(request, b"authorization"))
        body = await read_body(request, service.settings, service.held)
        try:
            await service.took(body)
        finally:
            service.held.give_back(len(body))
        return JSONResponse({"taken": True}, 202)

    @app.get("/v1/models", response_model=Models, responses=ERRORS)
    async def models(request: Request) -> Response:
        """Returns the models that a request may name."""
        service.keys.authorise(header(request, b"authorization"))
        routes = service.router.routes
        versions = sorted({target.version for target in (routes.stable, routes.canary) if target and target.version})
        names = [MODEL, *(f"{MODEL}/{version}" for version in versions)]
        entries = [{"id": name, "object": "model", "created": 0, "owned_by": "embedline"} for name in names]
        return JSONResponse({"object": "list", "data": entries})

    @app.get("/v1/routes", responses=ERRORS)
    async def routes(request: Request) -> Response:
        """Returns which versions answer, and how each has done in its last requests."""
        service.keys.authorise(header(request, b"authorization"))
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

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Returns the metrics for Prometheus."""
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")

    describe(app)
    return Recorded(app, embeddings, service)


def refused(request: Request, refusal: Any) -> Response:
    request.scope["record"].code = refusal.code
    return JSONResponse({"error": refusal.error}, refusal.status, refusal.headers)


def failed() -> Response:
    return JSONResponse({"error": Refusal(500, "this is a fault of ours; the log says more").error}, 500)


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Returns what the OpenAPI page says of a body that the application reads by itself."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Adds the bodies of requests, which the application reads by itself, to the OpenAPI page."""
    page = app.openapi()
    for model in (EmbeddingRequest, Taken):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        page["components"]["schemas"][model.__name__] = schema
    page["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    page["security"] = [{"key": []}, {}]


async def unless_left(left: asyncio.Future[None], work: Awaitable[Returned]) -> Returned:
    """Returns what the work does; cancels it and raises `ClientDisconnect` when its client has left before."""
    working = asyncio.current_task()
    assert working is not None

    def leave(_: object) -> None:
        working.cancel()

    left.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left.done():
            working.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        left.remove_done_callback(leave)


class Recorded:
    """Gives every request its id, and writes what became of it.

    It calls the function of `POST /v1/embeddings` by itself: the way through FastAPI takes longer than the rest.
    """

    def __init__(self, app: ASGIApp, embeddings: Callable[[Request], Awaitable[Response]], service: Service) -> None:
        self.app = app
        self.embeddings = embeddings
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = scope["record"] = Record(given_request_id(scope) or os.urandom(16).hex())

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", record.request_id.encode())]
            await send(message)

        try:
            if scope["path"] == EMBEDDINGS and scope["method"] == "POST":
                with traces.of_request(scope["headers"], record.request_id):
                    answer = await self._answer(Request(scope, receive), record)
                    await answer(scope, receive, sending)
                    traces.describe(status=record.status, items=record.items, version=record.version, code=record.code)
            else:
                await self.app(scope, receive, sending)
        except ClientDisconnect:
            record.status = CLIENT_LEFT
            self.service.metrics.dropped.inc()
        except Exception:  # FastAPI has answered the client
            logging.getLogger("gateway").exception("request %s has failed by a fault of ours", record.request_id)
        self._write(scope, record)

    async def _answer(self, request: Request, record: Record) -> Response:
        try:
            return await self.embeddings(request)
        except Refusal as refusal:
            return refused(request, refusal)
        except (ClientDisconnect, asyncio.CancelledError):
            raise
        except Exception:
            logging.getLogger("gateway").exception("request %s has failed by a fault of ours", record.request_id)
            return failed()

    def _write(self, scope: Scope, record: Record) -> None:
        seconds = time.perf_counter() - record.began
        if scope["path"] == EMBEDDINGS:
            target = (record.target.model, record.version) if record.target else ("none", "none")
            self.service.metrics.requests.labels(*target, record.status).inc()
            self.service.metrics.seconds.labels(*target).observe(seconds)
            self.service.metrics.items.inc(record.items or 0)
        elif record.status < 400:
            return
        log.write(
            "request",
            request_id=record.request_id,
            method=scope["method"],
            path=scope["path"][:200],
            status=record.status,
            milliseconds=round(seconds * 1000, 2),
            items=record.items,
            version=record.version,
            key=record.key,
            code=record.code,
        )


def given_request_id(scope: Scope) -> str | None:
    """Returns the id that the client has given its request, if it is one that can be logged."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(text := value.decode("latin-1")):
            return str(text)
    return None
