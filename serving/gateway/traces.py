"""Traces for OpenTelemetry: a span for every request, in that of the client that names one, and in it one for the time
that it waits and the model works. Spans hold no texts, images or vectors.

Without `gateway.traces` there are none. W3C Trace Context: https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from opentelemetry import trace
from opentelemetry.propagate import extract

from components.errors import UsageError

SERVICE = "embedline-gateway"
_tracer: trace.Tracer | None = None
"""None while nothing is exported: the tracer that does nothing would take a tenth of a small request's time."""


def export_to(collector: str) -> Callable[[], None]:
    """Sends this process's spans by OTLP over HTTP to a URL, in batches and off the request path; the OTEL_*
    environment variables set sampling and sizes. Returns what sends the last ones.

    Raises `UsageError` where the packages of the extra `traces` are missing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            f"gateway.traces needs a package that is missing: {error.name}", "Run `pip install 'embedline[traces]'`."
        ) from error
    provider = TracerProvider(resource=Resource.create({"service.name": SERVICE}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector)))
    global _tracer
    _tracer = provider.get_tracer(SERVICE)
    return provider.shutdown


def of_request(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> AbstractContextManager[object]:
    """Traces what happens inside of the block as one request, a part of the trace that its headers name."""
    if _tracer is None:
        return nullcontext()
    carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    return _tracer.start_as_current_span(
        "embeddings",
        extract(carrier),
        trace.SpanKind.SERVER,
        {"embedline.request_id": request_id},
        record_exception=False,
    )


def of_inference() -> AbstractContextManager[object]:
    """Traces what happens inside of the block as the time that items wait and a model works on them."""
    return _tracer.start_as_current_span("inference", record_exception=False) if _tracer else nullcontext()


def describe(**facts: str | int | None) -> None:
    """Adds facts to the present span, under `embedline.`."""
    if _tracer is not None:
        known = {f"embedline.{name}": value for name, value in facts.items() if value is not None}
        trace.get_current_span().set_attributes(known)
