"""Labelled feedback becomes training data: a request and the hit taken, each pair once, none of an evaluation set."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from components.corpus import ingest, read_pairs, read_queries
from components.corpus.additions import REPORT
from components.corpus.config import SourceSettings
from components.traffic import Feedback, Labelled, Request, TrafficWriter, feedback_table, keep, labelled

MakeConfig = Callable[..., SourceSettings]
MakeImage = Callable[..., bytes]
PAIRS = 40


def record(home: Path, requests: Sequence[Request], feedback: Sequence[Feedback]) -> None:
    with (
        TrafficWriter(home / "traffic", raw=True) as traffic,
        TrafficWriter(home / "feedback", feedback_table) as taken,
    ):
        for request in requests:
            traffic.record(request)
        for each in feedback:
            taken.record(each)


def asked(name: str, text: str | None = None, image: bytes | None = None) -> Request:
    return Request(1.0, name, None, "text" if text else "image", "1", raw_text=text, raw_image=image)


def test_a_pair_is_a_request_and_the_hit_that_was_taken_for_it(tmp_path: Path, make_image: MakeImage) -> None:
    one, two = make_image(1), make_image(2)
    requests = [asked("text", "a cat"), asked("image", image=one), asked("none right", "a dog"), asked("no feedback"),
                asked("raw not kept"), asked("text for text", "a cow"), asked("changed", "a pig")]  # fmt: skip
    feedback = [
        Feedback(2.0, "text", 3, image=two),
        Feedback(2.0, "image", 1, text="a house"),
        Feedback(2.0, "none right", 0, image=two),
        Feedback(2.0, "raw not kept", 1, image=two),
        Feedback(2.0, "text for text", 1, text="a bull"),
        Feedback(3.0, "changed", 2, image=one),
        Feedback(2.0, "changed", 1, image=two),
        Feedback(2.0, "unknown", 1, image=two),
    ]
    assert list(labelled(tmp_path)) == []
    record(tmp_path, requests, feedback)
    assert set(labelled(tmp_path)) == {Labelled("a cat", two), Labelled("a house", one), Labelled("a pig", one)}


def test_pairs_are_kept_once_and_what_is_no_image_is_left_out(tmp_path: Path, make_image: MakeImage) -> None:
    pairs = [Labelled("a \n cat", make_image(1)), Labelled("a cat", make_image(2)), Labelled("a dog", b"no image")]
    assert keep(iter(pairs), tmp_path) == 2
    assert keep(iter(pairs), tmp_path) == 0
    images = sorted(tmp_path.glob("*.png"))
    assert {image.read_bytes() for image in images} == {make_image(1), make_image(2)}
    assert {image.with_suffix(".txt").read_text() for image in images} == {"a cat\n"}


def test_an_image_of_too_many_pixels_is_left_out(
    tmp_path: Path, make_image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    assert keep(iter([Labelled("a cat", make_image(1))]), tmp_path) == 0


@pytest.mark.parametrize("leaks", [False, True], ids=["new", "of an evaluation set"])
def test_it_joins_the_training_data_of_the_next_version_once_unless_an_evaluation_set_holds_it(
    config: MakeConfig, tmp_path: Path, make_image: MakeImage, leaks: bool
) -> None:
    (source := tmp_path / "source").mkdir()
    for number in range(PAIRS):
        (source / f"{number}.png").write_bytes(make_image(number))
        (source / f"{number}.txt").write_text(f"thing {number}")
    settings = config("folder", source, name="things", eval_fraction=0.3, additions=[str(tmp_path / "feedback_pairs")])
    ingest(settings, tmp_path / "before")
    query = next(iter(read_queries(tmp_path / "before", "eval", "things_t2i")))
    text = str(query.item.text) if leaks else "novelty"
    record(tmp_path / "home", [asked("a", text), asked("b", text.upper())],
           [Feedback(2.0, name, 1, image=make_image(100)) for name in "ab"])  # fmt: skip
    assert keep(labelled(tmp_path / "home"), tmp_path / "feedback_pairs") == 2, "two spellings"
    for name in ("after", "again"):
        ingest(settings, tmp_path / name)
        pairs = [pair.query.text for pair in read_pairs(tmp_path / name, "added_t2i")] if not leaks else []
        assert [str(pair).lower() for pair in pairs] == ([] if leaks else ["novelty"])
        expected = {"added": int(not leaks), "repeated": 1, "held_out": int(leaks)}
        assert json.loads((tmp_path / name / REPORT).read_text()) == expected
