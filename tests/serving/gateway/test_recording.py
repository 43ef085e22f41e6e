"""What is kept of answered requests and of feedback: as `embedline monitor` reads it, and nothing of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from components.traffic import read_feedback, read_window
from serving.gateway.recording import Answered, as_request, script
from tests.serving.gateway.conftest import RunningGateway, running, wait_until
from tests.serving.gateway.test_app import image_part, vectors


@pytest.fixture(scope="module")
def recording(triton_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with running(tmp_path_factory.mktemp("recording"), triton=triton_address, record_share=1.0) as started:
        yield started


def test_requests_and_feedback_are_kept_in_files(recording: RunningGateway, png: Callable[..., bytes]) -> None:
    image = image_part(png("red"))
    parts = [[{"type": "text", "text": "a sad cat"}], [image], [{"type": "text", "text": "red"}, image]]
    answer = recording.ask(parts, instruction="find the image")
    name = answer.headers["x-request-id"]
    taken = recording.post("/v1/feedback", {"request_id": f"{name}-1", "rank": 2})
    assert taken.status_code == 202
    refused = recording.post("/v1/feedback", {"request_id": name, "rank": -1})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "rank"

    folder = recording.home / "traffic"
    wait_until(lambda: any(folder.rglob("*.parquet")) and any((recording.home / "feedback").rglob("*.parquet")))
    window = read_window(folder)
    order = np.argsort(window.columns["request_id"])
    assert list(window.columns["request_id"][order]) == [f"{name}-{number}" for number in range(3)]
    assert list(window.columns["modality"][order]) == ["text", "image", "composed"]
    assert set(window.columns["instruction"]) == {"find the image"}
    np.testing.assert_array_equal(window.vectors[order], vectors(answer))
    assert read_feedback(recording.home / "feedback", -np.inf, np.inf) == {f"{name}-1": 2}
    kept = b"".join(file.read_bytes() for file in folder.rglob("*.parquet"))
    assert b"a sad cat" not in kept and png("red") not in kept
    assert "embedline_traffic_lost_rows 0.0" in recording.get("/metrics").text


def test_a_broken_image_and_other_scripts_are_described() -> None:
    vector = np.ones(4, np.float32) / 2
    broken = as_request(Answered(0.0, "a", (b"", b"no image", b""), vector, 3, 1.0))
    assert (broken.modality, broken.image_mode, broken.image_width, broken.language) == ("image", None, None, None)
    assert broken.model_version == "3"
    texts = {"latin": "a sad cat", "cjk": "\u732b\u304c\u732b", "cyrillic": "\u043a\u043e\u0442", "": "42"}
    assert {script(text): text for text in texts.values()} == texts
