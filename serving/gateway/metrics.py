"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
ITEMS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COSINES = (-1, 0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999, 1)


class Metrics:
    """All metrics of one gateway; the functions say how much waits and how many bytes are held when they are asked."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        by = ("target", "version", "status")
        self.requests = Counter("embedline_gateway_requests", "Answered requests", by, registry=registry)
        self.seconds = Histogram(
            "embedline_gateway_seconds",
            "From the request line to the answer",
            by[:2],
            buckets=SECONDS,
            registry=registry,
        )
        self.items = Counter("embedline_gateway_items", "Items of answered requests", registry=registry)
        self.batch_items = Histogram(
            "embedline_gateway_batch_items", "Items in a call of Triton", buckets=ITEMS, registry=registry
        )
        self.dropped = Counter("embedline_gateway_dropped", "Requests whose client left", registry=registry)
        self.fallbacks = Counter(
            "embedline_gateway_canary_fallbacks", "Answers by stable for a canary", by[1:2], registry=registry
        )
        self.shadows = Counter("embedline_shadow", "Copies of requests", ("version", "result"), registry=registry)
        self.shadow_cosine = Histogram(
            "embedline_shadow_cosine",
            "Shadow's vector to the answered one",
            by[1:2],
            buckets=COSINES,
            registry=registry,
        )
        self.shadow_seconds = Histogram(
            "embedline_shadow_seconds", "What the shadow took", by[1:2], buckets=SECONDS, registry=registry
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Adds a gauge that is read when it is asked for."""
        Gauge(name, meaning, registry=self.registry).set_function(value)

    def page(self) -> bytes:
        """Returns the metrics in Prometheus's text format."""
        return generate_latest(self.registry)
