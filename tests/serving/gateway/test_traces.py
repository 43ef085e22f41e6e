"""What a collector receives of the gateway's requests, by OpenTelemetry's own protocol."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from components.errors import UsageError
from serving.gateway import traces
from serving.routes import Routes, Target, write_routes
from tests.loopback import Post, collecting
from tests.serving.gateway.conftest import running

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TEXT = "a text that nobody else may read"


def spans(received: Sequence[Post]) -> dict[str, Any]:
    return {
        span.name: span
        for post in received
        for of_resource in ExportTraceServiceRequest.FromString(post.body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    }


def facts(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_request_and_its_inference_are_spans_of_the_trace_of_the_client(tmp_path: Path, triton_address: str) -> None:
    write_routes(tmp_path, Routes(Target("embedder", 2)))
    with collecting() as collector:
        with running(tmp_path, triton=triton_address, traces=f"{collector.url}/v1/traces") as gateway:
            answer = gateway.ask([TEXT, "a cat"], {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "one"})
            assert answer.status_code == 200
        found = spans(collector.posts)  # the gateway sends the last ones before it ends
    request, inference = found["embeddings"], found["inference"]
    assert request.trace_id.hex() == inference.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT and inference.parent_span_id == request.span_id
    assert request.start_time_unix_nano <= inference.start_time_unix_nano < inference.end_time_unix_nano
    expected = {"embedline.request_id": "one", "embedline.status": 200, "embedline.items": 2, "embedline.version": 2}
    assert facts(request) == expected
    assert facts(inference) == {"embedline.model": "embedder", "embedline.version": 2, "embedline.items": 2}
    assert not any(TEXT.encode() in post.body for post in collector.posts), "what a request holds is in no span"


def test_a_collector_that_is_away_costs_no_answer(tmp_path: Path, triton_address: str) -> None:
    write_routes(tmp_path, Routes(Target("embedder", 2)))
    with running(tmp_path, triton=triton_address, traces="http://127.0.0.1:9/v1/traces") as gateway:
        assert gateway.ask("a cat").status_code == 200


def test_without_the_packages_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(UsageError, match=r"gateway.traces needs a package") as caught:
        traces.export_to("http://127.0.0.1:4318/v1/traces")
    assert "embedline[traces]" in caught.value.remedy
