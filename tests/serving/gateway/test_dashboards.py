"""Rules and dashboard ask for what there is: a real Prometheus scrapes a real gateway, a real Triton and a supervisor,
and every query is put to it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import yaml

from components.errors import EmbedlineError
from components.monitoring.config import Monitoring
from components.traffic import Window
from monitoring import golden
from monitoring.golden import GoldenReport
from monitoring.outcomes import Outcome
from monitoring.report import append_history, judge_window
from serving import TritonServer
from serving.routes import Routes, Target, write_routes
from serving.supervisor.decision import Policy
from serving.supervisor.looks import Looks
from serving.supervisor.loop import Watch
from serving.supervisor.metrics import Metrics
from tests.serving.gateway.conftest import running, wait_until

DEPLOY = Path(__file__).parents[3] / "serving" / "deploy"
WORDS = {"by", "without", "or", "and", "unless", "on", "ignoring", "bool", "group_left", "group_right", "offset"}
BOARD = json.loads((DEPLOY / "grafana" / "embedline.json").read_text(encoding="utf-8"))
RULES = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
RECORDED = {rule["record"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
ALERTS = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}


def names(query: str) -> set[str]:
    """Returns the metrics that a query asks for."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring)\s*\([^)]*\)", " ", query)
    return set(re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*\b(?!\s*\()", bare)) - WORDS


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('sum by (le) (rate(a_bucket{x="y"}[5m])) / on () group_left c:d > 2', {"a_bucket", "c:d"}),
        ("time() - max(e) > 6 * 3600 or absent(f) and g unless 1e6", {"e", "f", "g"}),
    ],
)
def test_the_metrics_of_a_query_are_found(query: str, expected: set[str]) -> None:
    assert names(query) == expected


class Failing:
    """A process of the supervisor whose first answer is right, and later ones are not until it is restarted."""

    name, reloadable, is_running = "triton", False, True

    def __init__(self, folder: Path) -> None:
        self.log, self.asked = folder / "triton.log", 0

    def probe(self) -> None:
        self.asked += 1
        if self.asked == 2:
            raise EmbedlineError("it lies", "")

    def restart(self) -> None:
        self.asked = 2


class Prometheus:
    """A running Prometheus and the three that it scrapes."""

    def __init__(self, url: str, endpoints: dict[str, str]) -> None:
        self.url, self.endpoints = url, endpoints

    def ask(self, query: str) -> list[float]:
        """Returns the values of a query. Raises `AssertionError` with Prometheus's words if it takes it not."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, trust_env=False).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        data = answer["data"]
        samples = [data] if data["resultType"] == "scalar" else data["result"]
        return [float(sample["value"][1]) for sample in samples]

    def lacks(self, query: str) -> list[str]:
        """Returns what is wrong with a query of a panel: metrics that nobody has, and no data."""
        wrong = [f"there is no {name}" for name in sorted(names(query)) if not self.ask(f"count({name})")]
        return wrong if np.isfinite(self.ask(query)).any() else [*wrong, "no data"]


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> tuple[Metrics, str]:
    """The metrics of a supervisor of a process that has failed and was healed, in whose home monitor has looked."""
    home = tmp_path_factory.mktemp("supervised")
    noise = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    one, other = (Window(rows, {"request_id": np.arange(100).astype(str)}, 100) for rows in (noise[:100], noise[100:]))
    settings = Monitoring(permutations=19, min_requests=50)
    report = judge_window(one, other, settings, since=0.0, until=1.0, version="2")
    report.outcomes.append(Outcome("all", "recall@1", 9, 0.5, 0.2, 0.8))
    append_history(home / "monitoring" / "history.jsonl", [report])
    asked = GoldenReport(time.time(), "2", 48, 0.9, 0.9, 1.0, 4.0, None)
    golden.append(home / "monitoring" / golden.HISTORY, asked)
    metrics = Metrics()
    metrics.registry.register(Looks(home))
    url = metrics.serve(0)
    watch = Watch(home, [Failing(home)], Policy(5, 60), 1.0, metrics, lambda _: None, lambda: None)
    (watched,) = watch.watched
    watch.ask(watched)
    watch.ask(watched)
    watched.unhealthy_since = time.monotonic()
    watch.heal(watched, "restart")
    return metrics, url


@pytest.fixture(scope="module")
def prometheus(
    session_server: TritonServer, supervisor: tuple[Metrics, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    """Prometheus with the configuration and the rules of a machine, on other ports and in a hurry."""
    folder = tmp_path_factory.mktemp("prometheus")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    home = tmp_path_factory.mktemp("answering")
    write_routes(home, Routes(Target("embedder", 2), shadow=Target("embedder", 1), shadow_share=1.0))
    with running(home, triton=f"127.0.0.1:{session_server.grpc_port}") as gateway:
        endpoints = {
            "triton": session_server.metrics_url,
            "supervisor": supervisor[1],
            "gateway": f"{gateway.url}/metrics",
        }
        text = (DEPLOY / "prometheus" / "machine.yml").read_text(encoding="utf-8").replace("15s", "1s")
        for job, default in (("triton", 8002), ("supervisor", 8003), ("gateway", 8080)):
            text = text.replace(f"127.0.0.1:{default}", httpx.URL(endpoints[job]).netloc.decode())
        rules = DEPLOY / "prometheus" / "rules.yml"
        (folder / "prometheus.yml").write_text(text.replace("rules.yml", str(rules)), encoding="utf-8")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        found = Prometheus(f"http://127.0.0.1:{port}", endpoints)

        def ready() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            gateway.ask(["a sad cat"])
            time.sleep(0.3)
            try:
                return all(
                    found.ask(f"{query} >= 0") for query in ("rate(embedline_shadow_cosine_count[5m])", *RECORDED)
                )
            except httpx.TransportError:
                return False

        try:
            wait_until(ready, 60)
            yield found
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.slow
@pytest.mark.system("prometheus")
@pytest.mark.parametrize("query", dict.fromkeys([*QUERIES, *RECORDED.values(), *RECORDED]))
def test_every_query_of_dashboard_and_recording_rules_has_data(prometheus: Prometheus, query: str) -> None:
    assert prometheus.lacks(query) == []


@pytest.mark.slow
@pytest.mark.system("prometheus")
def test_a_misspelt_metric_has_no_data_and_is_named(prometheus: Prometheus) -> None:
    for query in QUERIES:
        for name in names(query):
            wrong = re.sub(rf"\b{name}\b", f"{name}x", query)
            assert f"there is no {name}x" in prometheus.lacks(wrong)
    assert prometheus.lacks("embedline_gatway_held_bytes") == ["there is no embedline_gatway_held_bytes", "no data"]
    assert prometheus.lacks('up{job="tirton"}') == ["no data"]
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.ask("sum(up")


@pytest.mark.slow
@pytest.mark.system("prometheus")
def test_what_alerts_ask_for_is_there_and_none_of_them_cries(prometheus: Prometheus) -> None:
    for alert, query in ALERTS.items():
        lacking = [name for name in names(query) if not prometheus.ask(f"count({name})")]
        assert not lacking, f"{alert} asks for {lacking}"
        assert prometheus.ask(query) == [], f"{alert} fires on a machine where all is well"
    for annotation in BOARD["annotations"]["list"]:
        assert prometheus.ask(annotation["expr"]) == []


@pytest.mark.slow
@pytest.mark.system("prometheus")
def test_all_metrics_are_printed_by_the_endpoint_of_its_job(prometheus: Prometheus) -> None:
    printed = {
        job: set(re.findall(r"^([a-z]\w*)", httpx.get(url, trust_env=False).text, re.MULTILINE))
        for job, url in prometheus.endpoints.items()
    }
    owners = {"nv_": "triton", "embedline_gateway_": "gateway", "embedline_shadow": "gateway",
              "embedline_traffic_": "gateway", "process_": "gateway", "embedline_": "supervisor"}  # fmt: skip
    asked = {name for query in [*QUERIES, *RECORDED.values(), *ALERTS.values()] for name in names(query)}
    for name in asked - set(RECORDED) - {"up"}:
        job = next(job for prefix, job in owners.items() if name.startswith(prefix))
        assert name in printed[job], f"{job} does not print {name}"


def test_the_dashboard_is_laid_out_without_overlap_and_asks_the_provisioned_source() -> None:
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text(encoding="utf-8"))["datasources"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    places = []
    for each in (panel["gridPos"] for panel in BOARD["panels"]):
        places += [(each["x"] + x, each["y"] + y) for x in range(each["w"]) for y in range(each["h"])]
    assert len(places) == len(set(places)), "panels overlap"
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yaml").read_text(encoding="utf-8"))["providers"]
    mounts = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["grafana"]["volumes"]
    assert any(f"embedline.json:{provider['options']['path']}/" in mount for mount in mounts)
