"""The container files say what is true of the code, and are what Docker Compose and Kubernetes read."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from serving.environment import CONTAINER

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serving" / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
VERSIONS = ("1.32", "1.37")
COMPOSE_SCHEMA = json.loads(Path(__file__).with_name("compose-spec.json").read_text(encoding="utf-8"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def compose() -> Any:
    return read(DEPLOY / "compose.yaml")


@pytest.fixture
def kustomization() -> Any:
    return read(KUBERNETES / "kustomization.yaml")


@pytest.fixture
def deployment() -> Any:
    return read(KUBERNETES / "deployment.yaml")


def test_compose_is_what_the_specification_allows(compose: Any) -> None:
    validator = jsonschema.Draft202012Validator(COMPOSE_SCHEMA)
    assert list(validator.iter_errors(compose)) == []
    compose["services"]["triton"]["helthcheck"] = {}
    assert list(validator.iter_errors(compose)) != []


def faults_of(compose: Any) -> list[str]:
    """Returns what would make a deployment differ from day to day, be reached from outside, or miss a file."""
    faults = []
    for name, service in compose["services"].items():
        if not re.search(r":(v?\d[\w.-]*)$", service["image"]):
            faults.append(f"{name}: {service['image']} is not pinned")
        faults += [f"{name}: {port} is open to all" for port in service["ports"] if not port.startswith("127.0.0.1:")]
        for mount in service["volumes"]:
            source = mount.replace("${EMBEDLINE_PROJECT:-.}", ".").partition(":")[0]
            runtime = source.startswith("./.embedline/") or source in compose["volumes"]
            if not runtime and not (ROOT / source).is_file():
                faults.append(f"{name}: there is no {source}")
    return faults


def test_compose_pins_images_opens_the_loopback_alone_and_mounts_what_there_is(compose: Any) -> None:
    assert faults_of(compose) == []
    assert set(compose["services"]) == {"triton", "gateway", "prometheus", "grafana"}
    wrong = copy.deepcopy(compose)
    wrong["services"]["grafana"] |= {
        "image": "grafana/grafana:latest",
        "ports": ["3000:3000"],
        "volumes": ["./missing.yaml:/x:ro"],
    }
    assert len(faults_of(wrong)) == 3


def test_prometheus_asks_services_of_compose_and_grafana_asks_prometheus(compose: Any) -> None:
    jobs = read(DEPLOY / "prometheus" / "compose.yml")["scrape_configs"]
    targets = {target for job in jobs for group in job["static_configs"] for target in group["targets"]}
    (source,) = read(DEPLOY / "grafana" / "datasource.yaml")["datasources"]
    for address in {*targets, source["url"].removeprefix("http://")}:
        name, port = address.split(":")
        assert any(mapped.endswith(f":{port}") for mapped in compose["services"][name]["ports"]), address


def test_the_images_are_built_from_what_there_is() -> None:
    lines = (DEPLOY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    defaults = dict(line.removeprefix("ARG ").split("=") for line in lines if line.startswith("ARG "))
    assert defaults["TRITON"] == CONTAINER
    assert re.fullmatch(r"python:3\.12\.\d+-slim-\w+", defaults["PYTHON"])
    sources = [words for line in lines if line.startswith("COPY ") for words in line.split()[1:-1]]
    assert {"cli", "components", "flows", "monitoring", "serving", "params.yaml"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source


def resources(kustomization: Any) -> dict[str, Any]:
    return {name: read(KUBERNETES / name) for name in kustomization["resources"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_what_kubernetes_takes(kustomization: Any, version: str) -> None:
    manifests = resources(kustomization)
    kinds = {manifest["kind"] for manifest in manifests.values()}
    assert kinds == {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)
        misspelt = copy.deepcopy(manifest)
        misspelt["spec"]["selctor"] = {}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(misspelt, version, strict=True)


def test_a_misspelt_field_deep_inside_is_found(deployment: Any) -> None:
    deployment["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSecond"] = 3
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


def dangling(kustomization: Any, manifests: dict[str, Any]) -> list[str]:
    """Returns the names that a manifest refers to and that nothing has."""
    deployment = manifests["deployment.yaml"]
    pod = deployment["spec"]["template"]["spec"]
    containers = pod["initContainers"] + pod["containers"]
    generated = {one["name"] for one in kustomization["configMapGenerator"]}
    images = {one["name"] for one in kustomization["images"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    ports = {port["name"] for one in containers for port in one.get("ports", ())}
    wanted = [
        *((one["image"], images) for one in containers),
        *((mount["name"], volumes) for one in containers for mount in one["volumeMounts"]),
        *((one["configMap"]["name"], generated) for one in volumes.values() if "configMap" in one),
        *(
            (source["configMapRef"]["name"], generated)
            for one in containers
            for source in one.get("envFrom", ())
            if "configMapRef" in source
        ),
        *((port["targetPort"], ports) for port in manifests["service.yaml"]["spec"]["ports"]),
        (manifests["autoscaler.yaml"]["spec"]["scaleTargetRef"]["name"], {deployment["metadata"]["name"]}),
    ]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        manifests["service.yaml"]["spec"]["selector"],
        manifests["disruption_budget.yaml"]["spec"]["selector"]["matchLabels"],
    ]
    return [name for name, there in wanted if name not in there] + [str(one) for one in selectors if one != labels]


def test_what_manifests_refer_to_is_there(kustomization: Any) -> None:
    manifests = resources(kustomization)
    assert dangling(kustomization, manifests) == []
    manifests["service.yaml"]["spec"]["selector"] = {"app": "other"}
    manifests["deployment.yaml"]["spec"]["template"]["spec"]["volumes"].pop()
    assert len(dangling(kustomization, manifests)) == 2
    for generator in kustomization["configMapGenerator"]:
        assert all((KUBERNETES / file).is_file() for file in generator.get("files", ()))


def test_probes_ask_for_a_real_vector(deployment: Any) -> None:
    pod = deployment["spec"]["template"]["spec"]
    (triton,) = [one for one in pod["initContainers"] if one["name"] == "triton"]
    (gateway,) = pod["containers"]
    assert triton["restartPolicy"] == "Always"
    for probe in ("startupProbe", "livenessProbe"):
        assert triton[probe]["exec"]["command"] == ["python3", "/probe.py"]
    assert gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_autoscaler_asks_for_what_the_adapter_makes() -> None:
    rules = read(KUBERNETES / "prometheus_adapter.yaml")["rules"]["custom"]
    metrics = read(KUBERNETES / "autoscaler.yaml")["spec"]["metrics"]
    assert {one["pods"]["metric"]["name"] for one in metrics} == {rule["name"]["as"] for rule in rules}


@pytest.fixture
def answering() -> Iterator[HTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.server.asked = (self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))  # type: ignore[attr-defined]
            status, numbers = self.server.planned  # type: ignore[attr-defined]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"outputs": [{"name": "EMBEDDING", "data": numbers}]}).encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def probe(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(DEPLOY / "probe.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("status", "numbers", "code", "said"),
    [
        (200, [0.6, 0.8], 0, ""),
        (200, [0.6, 0.7], 1, "a vector of length 0.92"),
        (200, [float("nan"), 1], 1, "a vector of length nan"),
        (200, [], 1, "a vector of length 0"),
        (500, [0.6, 0.8], 1, "does not answer: HTTP Error 500"),
        (200, None, 1, "does not answer"),
    ],
)
def test_the_probe_believes_a_vector_alone(
    answering: HTTPServer, status: int, numbers: Any, code: int, said: str
) -> None:
    answering.planned = (status, numbers)  # type: ignore[attr-defined]
    done = probe(f"127.0.0.1:{answering.server_port}", "embedder")
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert answering.asked[0] == "/v2/models/embedder/infer"  # type: ignore[attr-defined]


def test_the_probe_says_that_nobody_is_there() -> None:
    done = probe("127.0.0.1:9")
    assert (done.returncode, "does not answer" in done.stderr) == (1, True)
