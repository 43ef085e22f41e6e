"""What Prometheus reads of the supervisor, on a port of the loopback: a scraper needs no access to our files, and a
supervisor that hangs or has died is seen as a target that is down, which a file that nobody renews would hide."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from components.errors import EmbedlineError

HOST = "127.0.0.1"


class Metrics:
    """The supervisor's counters; `process` is `triton` or the name of another child."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        prefix = "embedline_supervisor"
        self.probes = Counter(f"{prefix}_probes", "Real questions asked.", ["process", "result"], registry=registry)
        self.heals = Counter(f"{prefix}_heals", "Reloads and restarts.", ["process", "how"], registry=registry)
        self.healthy = Gauge(f"{prefix}_healthy", "1 if it answers rightly.", ["process"], registry=registry)
        self.seconds = Histogram(f"{prefix}_probe_seconds", "How long a probe took.", ["process"], registry=registry)

    def serve(self, port: int) -> str:
        """Answers scrapes on the port, 0 being any free one; returns the address. Raises `EmbedlineError` if it is in
        use."""
        try:
            server, _ = start_http_server(port, HOST, registry=self.registry)
        except OSError as error:
            raise EmbedlineError(
                f"port {port}, wanted for the supervisor's metrics, cannot be used: {error.strerror}",
                "set serving.supervisor_metrics_port to another (0: any free port)",
            ) from error
        return f"http://{HOST}:{server.server_port}/metrics"
