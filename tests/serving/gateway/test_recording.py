"""What is kept of answered requests and of feedback: as `embedline monitor` reads it, and nothing of what was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from components.gateway import Gateway
from components.traffic import Labelled, labelled, read_feedback, read_window
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


def test_the_content_is_kept_where_that_is_switched_on_and_makes_pairs_with_the_hits_taken(
    triton_address: str, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    with running(tmp_path, triton=triton_address, record_share=1.0, record_raw=True, redact=[r"\d{3,}"]) as recording:
        ids = [
            recording.ask(asked).headers["x-request-id"]
            for asked in ("a sad cat, call 0123456", [image_part(png("red"))], "not right")
        ]
        hits = ([image_part(png("blue"))], "a red square", [image_part(png("blue"))])
        for name, hit, rank in zip(ids, hits, (2, 1, 0), strict=True):
            taken = recording.post("/v1/feedback", {"request_id": name, "rank": rank, "hit": hit})
            assert taken.status_code == 202, taken.text
        for hit in (
            ["no part"],
            [image_part(b"no image")],
            [{"type": "image_url", "image_url": {"url": "http://a/b"}}],
        ):
            assert recording.post("/v1/feedback", {"request_id": "a", "rank": 1, "hit": hit}).status_code == 400
    assert set(labelled(tmp_path)) == {
        Labelled("a sad cat, call \N{HORIZONTAL ELLIPSIS}", png("blue")), Labelled("a red square", png("red")),
    }  # fmt: skip


def test_what_is_no_regular_expression_is_refused() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        Gateway(redact=["("])


def test_a_broken_image_and_other_scripts_are_described() -> None:
    vector = np.ones(4, np.float32) / 2
    broken = as_request(Answered(0.0, "a", (b"", b"no image", b""), vector, 3, 1.0))
    assert (broken.modality, broken.image_mode, broken.image_width, broken.language) == ("image", None, None, None)
    assert broken.model_version == "3"
    texts = {"latin": "a sad cat", "cjk": "\u732b\u304c\u732b", "cyrillic": "\u043a\u043e\u0442", "": "42"}
    assert {script(text): text for text in texts.values()} == texts
