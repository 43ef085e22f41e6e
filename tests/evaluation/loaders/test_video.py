from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.corpus import Item
from components.errors import DataInvalid, UsageError
from components.evaluation.loaders import video
from components.evaluation.loaders.frames import PLACES, chosen_frames
from tests.evaluation.loaders.conftest import (
    V2,
    Row,
    cut_short,
    load,
    texts,
    write_frames,
    write_image,
    write_lines,
    write_parquet,
)

FRAMES = "TIGER-Lab/MMEB-V2/video-tasks/frames"
UNDERSTAND = "Understand the content of the provided video."


def write_rows(mirror: Path, name: str, rows: list[Row]) -> Path:
    """Writes a set's table as its repository has it."""
    source = V2[name].source
    assert source is not None
    folder = mirror / source.repository / (source.configuration or "data")
    return write_parquet(folder / f"{source.split}-00000-of-00001.parquet", rows)


def frame_folder(mirror: Path, name: str) -> Path:
    return mirror / FRAMES / PLACES[name].family / PLACES[name].folder


def shown(folder: Path, instruction: str, text: str | None = None) -> Item:
    """Returns the item of a video whose three frames are all used."""
    return Item(text, video=tuple(folder / f"{number}.jpg" for number in range(3)), instruction=instruction)


@pytest.mark.parametrize(("name", "classes"), [("K700", 700), ("HMDB51", 51), ("UCF101", 101), ("Breakfast", 10)])
def test_a_video_has_as_candidates_all_classes_of_its_set(tmp_path: Path, name: str, classes: int) -> None:
    known = video._labels(name)
    write_rows(tmp_path, name, [{"video_id": "a", "pos_text": known[5]}, {"video_id": "b", "pos_text": known[0]}])
    root = frame_folder(tmp_path, name)
    for folder in ("a", "b"):
        write_frames(root / folder)
    first, second = load(name, tmp_path, 2, classes)
    assert first.item == shown(root / "a", video.CLASSES[name])
    assert texts(first) == known and len(set(known)) == classes
    assert first.candidates is second.candidates
    assert (first.relevant, second.relevant) == ({5: 1.0}, {0: 1.0})


def test_a_class_that_only_a_row_names_is_a_candidate_too(tmp_path: Path) -> None:
    write_rows(tmp_path, "Breakfast", [{"video_id": "a", "pos_text": "porridge"}])
    write_frames(frame_folder(tmp_path, "Breakfast") / "a")
    (query,) = load("Breakfast", tmp_path, 1)
    assert texts(query)[-1] == "porridge" and query.relevant == {10: 1.0}
    with pytest.raises(DataInvalid, match="Breakfast: candidates of a query: 11 in the mirror, 10 were published"):
        load("Breakfast", tmp_path, 1, 10)


def test_a_video_has_as_candidates_the_classes_of_its_row_in_the_first_rows(tmp_path: Path) -> None:
    rows = [{"video_id": number, "pos_text": "b", "neg_text": ["a", "b", "c"]} for number in range(5)]
    write_rows(tmp_path, "SmthSmthV2", rows)
    root = tmp_path / FRAMES / "video_cls/SSv2"
    for number in range(2):
        write_frames(root / str(number))
    first, second = load("SmthSmthV2", tmp_path, 2, 3)
    assert first.item == shown(root / "0", video.CLASSES["SmthSmthV2"])
    assert second.item == shown(root / "1", video.CLASSES["SmthSmthV2"])
    assert texts(first) == ["a", "b", "c"] and first.relevant == {1: 1.0}


QUESTIONS: dict[str, tuple[Row, str, str, list[str], dict[int, float]]] = {
    "Video-MME": (
        {"question": "Which?", "videoID": "v1", "options": ["A. Red.", "B. Blue."], "answer": "B"},
        "v1",
        "Which?\nA. Red.\nB. Blue.",
        ["A. Red.", "B. Blue."],
        {1: 1.0},
    ),
    "EgoSchema": (
        {"question": "Which?", "video_idx": "v1", "option": ["A. Red.", "B. Blue."], "answer": "0"},
        "v1",
        "Which?A. Red. B. Blue.",
        ["A. Red.", "B. Blue."],
        {0: 1.0},
    ),
    "ActivityNetQA": (
        {"question": "is it red", "video_name": "x1", "answer": "no"},
        "v_x1",
        "is it red? (A) yes; (B) no.",
        ["yes", "no"],
        {1: 1.0},
    ),
    "NExTQA": (
        {"question": "why", "video": 474, "answer": 3, "a0": "p", "a1": "q", "a2": "s", "a3": "t", "a4": "t "},
        "474",
        "why\nOptions:\n(A) p\n(B) q\n(C) s\n(D) t\n(E) t",
        ["p", "q", "s", "t", "t "],
        {3: 1.0},
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_comes_with_its_answers(tmp_path: Path, name: str) -> None:
    row, folder, text, answers, relevant = QUESTIONS[name]
    write_rows(tmp_path, name, [row])
    write_frames(frame_folder(tmp_path, name) / folder)
    (query,) = load(name, tmp_path, 1, len(answers))
    assert query.item == shown(frame_folder(tmp_path, name) / folder, video.QUESTION, text)
    assert texts(query) == answers and query.relevant == relevant


def test_equal_answers_are_equally_right(tmp_path: Path) -> None:
    row = QUESTIONS["NExTQA"][0] | {"a1": "t"}
    write_rows(tmp_path, "NExTQA", [row])
    write_frames(frame_folder(tmp_path, "NExTQA") / "474")
    (query,) = load("NExTQA", tmp_path, 1)
    assert query.relevant == {1: 1.0, 3: 1.0}


@pytest.fixture
def mvbench(tmp_path: Path) -> Path:
    row = {"question": "What?", "video": "clip 1.mp4", "candidates": ["up", "down", "up"], "answer": "up"}
    for part in video.MVBENCH:
        file = tmp_path / "VLM2Vec/MVBench/json" / f"{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([row]), encoding="utf-8")
        write_frames(frame_folder(tmp_path, "MVBench") / part / "clip 1.mp4")
    return tmp_path


def test_mvbench_is_all_of_its_parts(mvbench: Path) -> None:
    queries = load("MVBench", mvbench, 20, 3)
    folders = [query.item.video[0].parent.relative_to(frame_folder(mvbench, "MVBench")) for query in queries]  # type: ignore[union-attr]
    assert [folder.as_posix() for folder in folders] == [f"{part}/clip 1.mp4" for part in video.MVBENCH]
    assert queries[0].item.text == "What?\nOptions:\n(A) up\n(B) down\n(C) up"
    assert texts(queries[0]) == ["(A) up", "(B) down", "(C) up"] and queries[0].relevant == {2: 1.0}


def test_a_part_of_mvbench_that_is_missing_is_named(mvbench: Path) -> None:
    (mvbench / "VLM2Vec/MVBench/json/moving_count.json").unlink()
    with pytest.raises(DataInvalid, match="MVBench: the table 'moving_count' of VLM2Vec/MVBench is not in"):
        load("MVBench", mvbench, 20)


CAPTIONS: dict[str, tuple[Callable[[str, str], Row], str]] = {
    "DiDeMo": (
        lambda name, text: {"video": f"test/{name}.mp4", "caption": text},
        "Find a video that includes the following described scenes:",
    ),
    "MSR-VTT": (
        lambda name, text: {"video_id": name, "video": f"{name}.mp4", "caption": text},
        "Find a video that contains the following visual content:",
    ),
    "MSVD": (
        lambda name, text: {"video_id": name, "video": f"{name}.avi", "caption": [text, "another"]},
        "Find the video snippet that corresponds to the given summary:",
    ),
    "VATEX": (
        lambda name, text: {"videoID": name, "enCap": [text, "another"]},
        "Select a video that fits the description provided:",
    ),
    "YouCook2": (
        lambda name, text: {"id": name, "video_path": f"x/{name}.mp4", "sentence": text},
        "Find a video that demonstrates the following action while making a recipe:",
    ),
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_is_asked_among_all_videos(tmp_path: Path, name: str) -> None:
    row, instruction = CAPTIONS[name]
    write_rows(tmp_path, name, [row("a", "one"), row("b", "two"), row("a", "three")])
    root = tmp_path / FRAMES / "video_ret/data/ziyan/video_retrieval" / name / "frames"
    for folder in ("a", "b"):
        write_frames(root / folder)
    queries = load(name, tmp_path, 3, 2)
    assert [query.item for query in queries] == [
        Item(text, instruction=instruction) for text in ("one", "two", "three")
    ]
    assert queries[0].candidates == (shown(root / "a", UNDERSTAND), shown(root / "b", UNDERSTAND))
    assert all(query.candidates is queries[0].candidates for query in queries)
    assert [query.relevant for query in queries] == [{0: 1.0}, {1: 1.0}, {0: 1.0}]


@pytest.fixture(params=["Charades-STA", "Charades_STA"])
def moments(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Returns the folder of the frames; it has both names in the versions of the archive."""
    write_rows(tmp_path, "Charades-STA", [{"query": "sits", "video_path": "x/ABC_1.5_2.0.mp4"}])
    folder: Path = tmp_path / FRAMES / "video_mret" / request.param / "ABC_1.5_2.0"
    for clip in ("query", "positive", "negative_10", "negative_9"):
        write_frames(folder / clip)
    (folder / "note.txt").write_text("no clip", encoding="utf-8")
    return folder


def test_a_moment_is_asked_among_the_clips_of_its_video(tmp_path: Path, moments: Path) -> None:
    (query,) = load("Charades-STA", tmp_path, 1, 3)
    assert query.item == shown(moments / "query", video.MOMENT, "sits")
    clips = ("negative_9", "negative_10", "positive")
    assert query.candidates == tuple(shown(moments / clip, UNDERSTAND) for clip in clips)
    assert query.relevant == {2: 1.0}


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        ("query", "row 0: there are no frames in .*ABC_1.5_2.0/query"),
        ("positive", "row 0: there is no positive clip in .*ABC_1.5_2.0"),
        ("", "row 0: there are no frames in .*ABC_1.5_2.0/query"),
    ],
)
def test_a_moment_whose_clips_are_missing_is_named(tmp_path: Path, moments: Path, lost: str, problem: str) -> None:
    shutil.rmtree(moments / lost)
    with pytest.raises(DataInvalid, match=problem):
        load("Charades-STA", tmp_path, 1)


@pytest.fixture
def seeker(tmp_path: Path) -> Path:
    """Returns the folder of the frames; queries come with a video, with an image and with neither."""
    clips = {
        "positive_frames": [{"output_path": "videos/m/1.mp4"}, {"output_path": "videos/m/2.mp4"}],
        "negative_frames": [{"output_path": "videos/n/3.mp4"}, {"output_path": "videos/m/2.mp4"}],
    }
    inputs = ("movie/77.mp4", "images/7.jpg", "")
    write_rows(tmp_path, "MomentSeeker", [{"query": f"q{given}", "input_frames": given} | clips for given in inputs])
    root = frame_folder(tmp_path, "MomentSeeker")
    for folder in ("movie_77", "videos_m_1", "videos_m_2", "videos_n_3"):
        write_frames(root / "video_frames" / folder, 9)
    write_image(root / "query_images/7.jpg")
    return root


def test_a_clip_is_sought_by_text_image_or_video(tmp_path: Path, seeker: Path) -> None:
    def every(folder: str, instruction: str, text: str | None = None) -> Item:
        frames = tuple(seeker / "video_frames" / folder / f"{number}.jpg" for number in range(9))
        return Item(text, video=frames, instruction=instruction)

    queries = load("MomentSeeker", tmp_path, 3, 4)
    assert [query.item for query in queries] == [
        every("movie_77", video.SEEK_BY_VIDEO, "qmovie/77.mp4"),
        Item("qimages/7.jpg", seeker / "query_images/7.jpg", instruction=video.SEEK_BY_IMAGE),
        Item("q", instruction=video.SEEK_BY_TEXT),
    ]
    clips = ("videos_m_1", "videos_m_2", "videos_n_3", "videos_m_2")
    for query in queries:
        assert query.candidates == tuple(every(clip, video.CLIP) for clip in clips)
        assert query.relevant == {0: 1.0, 1: 1.0, 3: 1.0}, "a clip is right wherever it is named"


@pytest.mark.parametrize("lost", ["query_images/7.jpg", "video_frames/movie_77", "video_frames/videos_n_3"])
def test_what_a_query_or_clip_lacks_is_named(tmp_path: Path, seeker: Path, lost: str) -> None:
    (shutil.rmtree if (seeker / lost).is_dir() else Path.unlink)(seeker / lost)  # type: ignore[operator]
    with pytest.raises(DataInvalid, match=f"row [01]: .*{lost}"):
        load("MomentSeeker", tmp_path, 3)


def test_eight_frames_are_chosen_as_numpy_spaces_them(tmp_path: Path) -> None:
    for count in (1, 7, *range(8, 66)):
        frames = write_frames(tmp_path / str(count), count)
        spaced = [frames[index] for index in np.linspace(0, count - 1, 8, dtype=int)]
        assert chosen_frames(tmp_path / str(count), "row") == (tuple(spaced) if count >= 8 else frames)
        assert chosen_frames(tmp_path / str(count), "row", None) == frames


def test_frames_are_images_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["frame_2.jpg", "frame_10.PNG", "frame_0100.jpeg"]
    for name in names:
        write_image(tmp_path / name)
    (tmp_path / "frames.json").touch()
    assert chosen_frames(tmp_path, "row") == tuple(tmp_path / name for name in names)


@pytest.fixture
def msvd(tmp_path: Path) -> Path:
    """A set as MMEB-V2 has it: rows beside the frames, frames in an archive."""
    row, _ = CAPTIONS["MSVD"]
    tasks = tmp_path / "mirror/video-tasks"
    write_lines(tasks / "data/msvd.jsonl", [row("a", "one"), row("b", "two")])
    (tasks / "frames").mkdir()
    for folder in ("a", "b"):
        write_frames(tmp_path / "MSVD" / folder)
    with tarfile.open(tasks / "frames/video_ret.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "MSVD", "data/ziyan/video_retrieval/MSVD/frames")
    return tmp_path / "mirror"


def test_rows_and_packed_frames_of_mmeb_v2_are_enough(msvd: Path) -> None:
    queries = load("MSVD", msvd, 2, 2)
    root = msvd / "video-tasks/frames/video_ret/data/ziyan/video_retrieval/MSVD/frames"
    assert queries[0].candidates == (shown(root / "a", UNDERSTAND), shown(root / "b", UNDERSTAND))


def test_a_frame_folder_that_is_missing_is_named_with_its_row(msvd: Path) -> None:
    load("MSVD", msvd, 2)
    shutil.rmtree(next(msvd.rglob("frames/b")))
    with pytest.raises(DataInvalid, match=r"msvd.jsonl: row 1: there are no frames in .*MSVD/frames/b"):
        load("MSVD", msvd, 2)


@pytest.mark.parametrize("path", ["/etc", "../b", "a/../../b"])
def test_frames_outside_the_folder_of_the_set_are_refused(tmp_path: Path, msvd: Path, path: str) -> None:
    row, _ = CAPTIONS["MSVD"]
    write_lines(msvd / "video-tasks/data/msvd.jsonl", [row("a", "one"), row(path, "two")])
    with pytest.raises(DataInvalid, match=f"msvd.jsonl: row 1: is not as published: .*unsafe path: {path}"):
        load("MSVD", msvd, 2)
    write_rows(tmp_path, "K700", [{"video_id": path, "pos_text": video._labels("K700")[0]}])
    frame_folder(tmp_path, "K700").mkdir(parents=True)
    with pytest.raises(DataInvalid, match=f"parquet: row 0: is not as published: .*unsafe path: {path}"):
        load("K700", tmp_path, 1)


def test_an_archive_of_frames_that_is_cut_short_is_named(msvd: Path) -> None:
    cut_short(msvd / "video-tasks/frames/video_ret.tar.gz")
    with pytest.raises(DataInvalid, match=r"video_ret.tar.gz .* is broken or incomplete"):
        load("MSVD", msvd, 2)


def test_frames_that_are_missing_are_named_with_what_to_download(msvd: Path) -> None:
    (msvd / "video-tasks/frames/video_ret.tar.gz").unlink()
    with pytest.raises(DataInvalid, match="MSVD: there are no frames in") as raised:
        load("MSVD", msvd, 2)
    assert "--include 'video-tasks/frames/video_ret.tar.gz*'" in raised.value.remedy


@pytest.mark.parametrize(("queries", "candidates"), [(3, 2), (1, 2), (2, 3), (2, 1)])
def test_other_numbers_than_published_are_an_error(msvd: Path, queries: int, candidates: int) -> None:
    with pytest.raises(DataInvalid, match=r"MSVD: .*: 2 in the mirror, [13] were published"):
        load("MSVD", msvd, queries, candidates)


def test_a_table_that_is_cut_short_is_named(tmp_path: Path, msvd: Path) -> None:
    rows = msvd / "video-tasks/data/msvd.jsonl"
    whole = rows.read_text(encoding="utf-8")
    rows.write_text(whole[:-9], encoding="utf-8")
    with pytest.raises(DataInvalid, match=r"msvd.jsonl: row 1: cannot be read, it is broken or cut short"):
        load("MSVD", msvd, 2)
    cut_short(write_rows(msvd, "MSVD", [json.loads(line) for line in io.StringIO(whole)]))
    with pytest.raises(DataInvalid, match=r"MSVD/data/test-00000-of-00001.parquet cannot be read, it is broken"):
        load("MSVD", msvd, 2)


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("Video-MME", {"answer": "E"}, "row 0: is not as published: IndexError.*number 4 of 2"),
        ("Video-MME", {"answer": "?"}, "row 0: is not as published"),
        ("Video-MME", {"options": None}, "row 0: is not as published"),
        ("EgoSchema", {"answer": "-1"}, "row 0: is not as published: IndexError.*number -1 of 2"),
        ("ActivityNetQA", {"answer": "maybe"}, "row 0: is not as published"),
        ("NExTQA", {"answer": 5}, "row 0: is not as published"),
        ("NExTQA", {"question": None}, "row 0: is not as published"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(
    tmp_path: Path, name: str, changes: dict[str, Any], problem: str
) -> None:
    row, folder, *_ = QUESTIONS[name]
    write_rows(tmp_path, name, [row | changes])
    write_frames(frame_folder(tmp_path, name) / folder)
    with pytest.raises(DataInvalid, match=problem):
        load(name, tmp_path, 1)


def test_a_class_that_is_not_among_those_of_its_row_is_an_error(tmp_path: Path) -> None:
    write_rows(tmp_path, "SmthSmthV2", [{"video_id": "1", "pos_text": "d", "neg_text": ["a", "b"]}])
    write_frames(tmp_path / FRAMES / "video_cls/SSv2/1")
    with pytest.raises(DataInvalid, match="row 0: the right answer is not among the candidates"):
        load("SmthSmthV2", tmp_path, 1)


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    write_rows(tmp_path, "DiDeMo", [{"video": "a.mp4", "text": "one"}])
    (tmp_path / FRAMES / "video_ret/DiDeMo").mkdir(parents=True)
    with pytest.raises(DataInvalid, match=r"parquet: there is no column 'caption', only video, text"):
        load("DiDeMo", tmp_path, 1)


def test_a_set_that_mmeb_v2_has_not_is_used_wrongly(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Kinetics: MMEB v2 has no such set of videos"):
        list(video.LOADERS["msvd"]("Kinetics", V2["MSVD"], tmp_path))


def test_every_set_of_videos_has_its_place() -> None:
    assert set(PLACES) == {name for name, task in V2.items() if task.modality == "video"}
