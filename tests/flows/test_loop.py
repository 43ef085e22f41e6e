"""The whole loop by itself: traffic shifts, an alarm starts a round with what users labelled, the new version answers.

Everything is real and small: Triton and the gateway, Prefect's server and worker, every stage of the round.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from PIL import Image

from components.corpus.sources.emoji.characters import Emoji, read_annotations, read_emoji
from components.corpus.sources.emoji.images import colour_image, line_art_image, on_white
from monitoring.report import WindowReport, read_history
from serving.events import read_events

from .conftest import Line, environment_of, make_line

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.nightly]

WINDOW, ITEMS, SIDE, SIGNS, SECONDS = 160, 20, 24, 200, 900
MONITORING = {
    "requests_a_window": WINDOW, "reference_requests": WINDOW, "min_requests": 50, "permutations": 199, "slices": [],
    "false_alarms_per_month": 180, "retrain": "eager", "policies": {"eager": {"alarms": 1, "new_requests": WINDOW}},
}  # fmt: skip


@dataclass(frozen=True)
class Loop:
    """A workspace that serves a champion and runs its flows; `emoji` are what is asked for."""

    line: Line
    emoji: list[tuple[Emoji, str]]

    @property
    def state(self) -> Path:
        return self.line.root / ".embedline"

    def post(self, path: str, body: Any) -> httpx.Response:
        """Asks the gateway; while a supervisor starts it again the answer is waited for."""
        deadline = time.monotonic() + 60
        while True:
            try:
                port = json.loads((self.state / "gateway.json").read_text())["port"]
                answer = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=60, trust_env=False)
                answer.raise_for_status()
                return answer
            except (OSError, httpx.HTTPError):
                assert time.monotonic() < deadline, "the gateway does not answer"
                time.sleep(0.5)

    def send(self, seed: int, line_art: float = 0.0) -> None:
        """Sends a window of names and images, of which a share is line art that the user names."""
        noise = random.Random(seed)
        for _ in range(WINDOW // ITEMS):
            asked: list[Any] = []
            taken = {}
            for number in range(ITEMS):
                emoji, name = noise.choice(self.emoji)
                if noise.random() < line_art:
                    asked.append(image_part(line_art_image(emoji, SIDE)))
                    taken[number] = name
                else:
                    asked.append(name if noise.random() < 0.5 else image_part(colour_image(emoji, SIDE)))
            answer = self.post("/v1/embeddings", {"model": "embedder", "input": asked})
            for number, name in taken.items():
                name_of = f"{answer.headers['x-request-id']}-{number}"
                self.post("/v1/feedback", {"request_id": name_of, "rank": 1, "hit": name})

    def reports(self, version: str) -> list[WindowReport]:
        return [each for each in read_history(self.state / "monitoring/history.jsonl") if each.version == version]

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in read_events(self.state) if event["kind"] == kind]

    def kill(self, word: str) -> None:
        """Kills Prefect's server or worker of this workspace as a full memory would."""
        for process in psutil.process_iter(["cmdline", "cwd"]):
            command = process.info["cmdline"] or []
            if process.info["cwd"] == str(self.line.root) and command[2:4] == ["prefect", word]:
                os.kill(process.pid, signal.SIGKILL)
                return
        raise AssertionError(f"no {word} runs")


def image_part(image: Image.Image | None) -> list[dict[str, Any]]:
    assert image
    on_white(image).save(buffer := io.BytesIO(), "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}]


def eventually(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(1)


@pytest.fixture(scope="module")
def signs() -> list[tuple[Emoji, str]]:
    """Emoji with their names, each of which has a colour image and line art."""
    english = read_annotations("en")
    named = [(each, str(english.name(each))) for each in read_emoji() if not each.skin_tones and english.name(each)]
    return [(emoji, name) for emoji, name in named[::3] if line_art_image(emoji, SIDE)][:SIGNS]


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory, text_model: Path, signs: Sequence[tuple[Emoji, str]]) -> Line:
    """A workspace after its first round, on colour images alone, which every other one starts as a copy of."""
    folder = tmp_path_factory.mktemp("champion")
    (source := folder / "signs").mkdir()
    for number, (emoji, name) in enumerate(signs):
        on_white(colour_image(emoji, SIDE)).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text(name, encoding="utf-8")
    line = make_line(folder, text_model)
    configure(line.root / "params.yaml", source)
    deployments = yaml.safe_load((line.root / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in deployments["deployments"]:
        looks = deployment["entrypoint"].endswith(":monitor")
        deployment["schedules"] = [{"cron": "* * * * *", "timezone": "UTC", "active": True}] if looks else []
    (line.root / "prefect.yaml").write_text(yaml.safe_dump(deployments), encoding="utf-8")
    assert line.answer("run")["roles"]["champion"] == "1"
    return line


def configure(parameters: Path, source: Path) -> None:
    content = yaml.safe_load(parameters.read_text(encoding="utf-8"))
    content["corpus"] = {"source": "folder", "name": "signs", "location": str(source), "dev_fraction": 0.1}
    content["validation"] |= {"min_train_rows": 10, "min_eval_sets": 2}
    for recipe in ("teacher", "distillation"):
        content[recipe]["schedule"] |= {"task_weights": {}, "no_flip_tasks": []}
    content["teacher_embeddings"]["no_flip_tasks"] = []
    content["serving"] |= {f"{use}_port": 0 for use in ("http", "grpc", "metrics", "supervisor_metrics")}
    content["gateway"] = {"port": 0, "record_share": 1.0, "record_raw": True}
    content["monitoring"] = MONITORING
    content["promotion"] |= {"margin": 1.0, "max_task_drop": 1.0, "max_tie_rate": 1.0}  # twelve steps learn noise
    parameters.write_text(yaml.safe_dump(content), encoding="utf-8")


@pytest.fixture
def loop(champion: Line, signs: list[tuple[Emoji, str]], tmp_path: Path) -> Iterator[Loop]:
    line = Line(shutil.copytree(champion.root, tmp_path / "workspace", symlinks=True), environment_of(tmp_path))
    try:
        line.answer("serve", "--detach")
        line.answer("schedule", "up", "--port", "0")
        yield Loop(line, signs)
    finally:
        line.call("schedule", "down")
        line.call("serve", "stop")


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "server and worker killed"])
def test_a_shift_starts_a_round_that_learns_from_it_and_the_alarm_is_gone(loop: Loop, killed: bool) -> None:
    data = (loop.line.root / "data.dvc").read_text()
    for seed in range(2):
        loop.send(seed)
    eventually(lambda: len(loop.reports("1")) >= 2, "the traffic is looked at")
    assert [report.verdict for report in loop.reports("1")] == ["too few", "ok"], "the reference, and traffic like it"
    assert not loop.events("retrain_wanted")

    loop.send(2, line_art=0.5)
    eventually(lambda: loop.events("retrain_wanted"), "the shift is an alarm, which asks for a round")
    assert loop.reports("1")[-1].verdict == "alarm"
    assert "drift alarm" in (loop.state / "alerts.log").read_text()
    if killed:
        eventually(lambda: (loop.state / "logs" / "teacher.log").stat().st_mtime > started(loop), "the round trains")
        for word in ("server", "worker"):
            loop.kill(word)

    eventually(lambda: [event for event in loop.events("promoted") if event["version"] == 2], "version 2 is promoted")
    reign = loop.line.answer("history")["reigns"][-1]
    assert reign["version"] == "2" and reign["reason"].startswith("1 of the last 1 windows are alarms")
    assert json.loads((loop.line.root / "data" / "additions.json").read_text())["added"] > 0
    assert (loop.line.root / "data.dvc").read_text() != data

    for seed in (3, 4):
        loop.send(seed, line_art=0.5)
    eventually(lambda: len(loop.reports("2")) >= 2, "what version 2 answers is looked at")
    assert [report.verdict for report in loop.reports("2")][-1] == "ok"
    assert len(loop.events("retrain_wanted")) == 1


def started(loop: Loop) -> float:
    """Returns when the retraining was asked for, in seconds since 1970."""
    return datetime.fromisoformat(loop.events("retrain_wanted")[0]["time"]).timestamp()
