"""The 18 sets of videos of MMEB v2: classes, answers, videos for a caption, and moments of a video.

Columns, candidates and instructions are those of VLM2Vec's parsers (github.com/TIGER-AI-Lab/VLM2Vec, v2,
src/data/eval_dataset), after which the layouts are named. A candidate is relevant if it is equal to a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from operator import itemgetter
from pathlib import Path

import yaml

from components.corpus import Item, Query
from components.corpus.images import inside
from components.errors import DataInvalid, UsageError
from components.evaluation.benchmark import Task
from components.evaluation.loaders.frames import FRAMES, by_number, chosen_frames, frame_root, place_of
from components.evaluation.loaders.mirror import media_folders, published, tables
from components.evaluation.loaders.tables import AGAIN, Loader, Row, checked, rows, understood

VIDEO = "Understand the content of the provided video."
CLIP = "Understand the content of the provided video clip."
QUESTION = (
    "Given a video and a question, select the most accurate answer from the provided candidates. "
    "Return only the exact text of your chosen answer. Question: "
)
CLASSES = {
    "K700": "Recognize the category of the video content.",
    "SmthSmthV2": "What actions or object interactions are being performed by the person in the video?",
    "UCF101": "What activities or sports are being performed by the person in the video?",
    "HMDB51": "What actions or objects interactions are the person in the video doing?",
    "Breakfast": "Recognize the breakfast type that the person is cooking in the video. ",
}
MOMENT = "Find the clip that corresponds to the described scene in the given video:"
SEEK_BY_TEXT = "Find the clip that corresponds to the given text:"
SEEK_BY_IMAGE = "Select the video clip that aligns with the given text and image:"
SEEK_BY_VIDEO = "Find the clip that corresponds to the given sentence and video segment:"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def classification(name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields each video with all classes of its set, and those that only the rows name, as candidates."""
    root, asked = frame_root(name, mirror), []
    positions = {label: position for position, label in enumerate(_labels(name))}
    for place, row in _rows(name, task, mirror, ("video_id", "pos_text")):
        with understood(place):
            video, label = inside(root, row["video_id"]), row["pos_text"]
        asked.append((_video(video, place, CLASSES[name]), positions.setdefault(label, len(positions))))
    pool = _texts(list(positions))
    for item, position in asked:
        yield Query(item, pool, {position: 1.0})


def multiple_choice(name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields each video with the classes that its row names; the set is the first rows of a longer table."""
    root = frame_root(name, mirror)
    columns = ("video_id", "pos_text", "neg_text")
    for place, row in islice(_rows(name, task, mirror, columns), task.queries):
        with understood(place):
            candidates, truth = _texts(row["neg_text"]), row["pos_text"]
            query = _video(inside(root, str(row["video_id"])), place, CLASSES[name])
        yield Query(query, candidates, _relevant(candidates, [Item(truth)], place))


@dataclass(frozen=True)
class Questions:
    """A set of questions about videos: `ask` returns the text, the answers and the position of the right one."""

    columns: tuple[str, ...]
    folder: Callable[[Row], str]
    ask: Callable[[Row], tuple[str, list[str], int]]


def questions(spec: Questions, name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields each question about a video, answers written out behind it, with its answers as candidates."""
    root = frame_root(name, mirror)
    for place, row in _rows(name, task, mirror, spec.columns):
        with understood(place):
            text, answers, right = spec.ask(row)
            candidates = _texts(answers)
            if right not in range(len(answers)):
                raise IndexError(f"the answer is number {right} of {len(answers)}")
            video = _video(inside(root, spec.folder(row)), place, QUESTION, text)
        yield Query(video, candidates, _relevant(candidates, [candidates[right]], place))


def lettered(row: Row) -> tuple[str, list[str], int]:
    """Video-MME: `options` with letter and full stop, such as 'A. Red.', in lines below the question."""
    options = row["options"]
    return "\n".join([row["question"], *options]), options, LETTERS.index(row["answer"])


def egocentric(row: Row) -> tuple[str, list[str], int]:
    """EgoSchema: options as in Video-MME, but behind the question without a line break or space."""
    options = row["option"]
    return row["question"] + " ".join(options), options, int(row["answer"])


def yes_or_no(row: Row) -> tuple[str, list[str], int]:
    return row["question"] + "? (A) yes; (B) no.", ["yes", "no"], ["yes", "no"].index(row["answer"])


def numbered(row: Row) -> tuple[str, list[str], int]:
    """NExTQA: five answers in columns of their own; the candidates are the answers without their letters."""
    answers = [row[f"a{number}"] for number in range(5)]
    return _options(row["question"], answers)[0], answers, row["answer"]


def listed(row: Row) -> tuple[str, list[str], int]:
    """MVBench: the candidates carry the letters that the question gives them; of equal ones the last is right."""
    answers = row["candidates"]
    right = len(answers) - 1 - answers[::-1].index(row["answer"])
    return *_options(row["question"], answers), right


@dataclass(frozen=True)
class Captions:
    """A set of captions: `video` returns the name of the video that a row is about."""

    instruction: str
    columns: tuple[str, ...]
    caption: str
    video: Callable[[Row], str]


def captions(spec: Captions, name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields each caption, the first where a row has several, with all videos of the set as candidates."""
    root = frame_root(name, mirror)
    positions: dict[str, int] = {}
    videos: list[Item] = []
    asked: list[tuple[str, int]] = []
    for place, row in _rows(name, task, mirror, spec.columns):
        with understood(place):
            video, caption = spec.video(row), row[spec.caption]
            text = caption if isinstance(caption, str) else caption[0]
            asked.append((text, positions.setdefault(video, len(positions))))
            if len(videos) < len(positions):
                videos.append(_video(inside(root, video), place, VIDEO))
    pool = tuple(videos)
    for text, position in asked:
        yield Query(Item(text, instruction=spec.instruction), pool, {position: 1.0})


def moments(name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields each description and video with the clips whose frames lie beside the video's as candidates."""
    root = frame_root(name, mirror)
    for place, row in _rows(name, task, mirror, ("query", "video_path")):
        with understood(place):
            folder, text = inside(root, Path(row["video_path"]).stem), row["query"]
        query = _video(folder / "query", place, MOMENT, text)
        names = [clip.name for clip in folder.iterdir() if clip.is_dir() and clip.name != "query"]
        clips = {clip: _video(folder / clip, place, VIDEO) for clip in sorted(names, key=by_number)}
        right = [item for clip, item in clips.items() if clip.startswith("positive")]
        if not right:
            raise DataInvalid(f"{place}: there is no positive clip in {folder}", "Download the set's frames again.")
        candidates = tuple(clips.values())
        yield Query(query, candidates, _relevant(candidates, right, place))


def seek(name: str, task: Task, mirror: Path) -> Iterator[Query]:
    """Yields each description, which may come with an image or a video, with its clips; all their frames are used."""
    root = frame_root(name, mirror)
    columns = ("query", "positive_frames", "negative_frames", "input_frames")
    for place, row in _rows(name, task, mirror, columns):
        with understood(place):
            clips = [clip["output_path"] for clip in (*row["positive_frames"], *row["negative_frames"])]
            query = _seeking(row["query"], row["input_frames"], root, place)
            candidates = tuple(_video(_sampled(root, clip), place, CLIP, count=None) for clip in clips)
            right = candidates[: len(row["positive_frames"])]
        yield Query(query, candidates, _relevant(candidates, right, place))


QUESTIONS = {
    "videomme": Questions(("question", "videoID", "options", "answer"), itemgetter("videoID"), lettered),
    "egoschema": Questions(("question", "video_idx", "option", "answer"), itemgetter("video_idx"), egocentric),
    "activitynetqa": Questions(
        ("question", "video_name", "answer"), lambda row: f"v_{row['video_name']}", yes_or_no
    ),
    "nextqa": Questions(
        ("question", "video", "answer", "a0", "a1", "a2", "a3", "a4"), lambda row: str(row["video"]), numbered
    ),
    "mvbench": Questions(
        ("question", "video", "candidates", "answer"), lambda row: f"{row['subset']}/{row['video']}", listed
    ),
}  # fmt: skip
CAPTIONS = {
    "didemo": Captions(
        "Find a video that includes the following described scenes:", ("video", "caption"), "caption",
        lambda row: Path(row["video"]).stem,
    ),
    "msrvtt": Captions(
        "Find a video that contains the following visual content:", ("video_id", "caption"), "caption",
        itemgetter("video_id"),
    ),
    "msvd": Captions(
        "Find the video snippet that corresponds to the given summary:", ("video_id", "caption"), "caption",
        itemgetter("video_id"),
    ),
    "vatex": Captions(
        "Select a video that fits the description provided:", ("videoID", "enCap"), "enCap", itemgetter("videoID")
    ),
    "youcook2": Captions(
        "Find a video that demonstrates the following action while making a recipe:", ("id", "sentence"), "sentence",
        itemgetter("id"),
    ),
}  # fmt: skip
MVBENCH = (
    "episodic_reasoning", "action_sequence", "action_prediction", "action_antonym", "fine_grained_action",
    "unexpected_action", "object_existence", "object_interaction", "object_shuffle", "moving_direction",
    "action_localization", "scene_transition", "action_count", "moving_count", "moving_attribute", "state_change",
    "fine_grained_pose", "character_order", "egocentric_navigation", "counterfactual_inference",
)  # fmt: skip
"""The parts of MVBench, each a table of its own."""
LOADERS: dict[str, Loader] = {
    "video-classification": checked(classification),
    "ssv2": checked(multiple_choice),
    **{layout: checked(partial(questions, spec)) for layout, spec in QUESTIONS.items()},
    **{layout: checked(partial(captions, spec)) for layout, spec in CAPTIONS.items()},
    "moment-retrieval": checked(moments),
    "momentseeker": checked(seek),
}


def _rows(name: str, task: Task, mirror: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    """Yields the rows of a set from its own repository, or from the copy of them in MMEB v2."""
    source = published(name, task)
    copies = [
        folder / "video-tasks/data" / table for folder in media_folders(mirror) for table in place_of(name).tables
    ]
    if task.layout != "mvbench":
        yield from rows(tables(name, source, mirror, copies), columns)
        return
    for part in MVBENCH:
        of_part = source.model_copy(update={"configuration": part})
        for place, row in rows(tables(name, of_part, mirror, [copy / f"{part}.json" for copy in copies]), columns):
            yield place, row | {"subset": part}


def _video(folder: Path, place: str, instruction: str, text: str | None = None, count: int | None = FRAMES) -> Item:
    return Item(text, video=chosen_frames(folder, place, count), instruction=instruction)


def _texts(texts: Sequence[str]) -> tuple[Item, ...]:
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise TypeError("the candidates are no texts")
    return tuple(Item(text) for text in texts)


def _relevant(candidates: Sequence[Item], right: Sequence[Item], place: str) -> dict[int, float]:
    found = {position: 1.0 for position, candidate in enumerate(candidates) if candidate in right}
    if not found:
        raise DataInvalid(f"{place}: the right answer is not among the candidates", AGAIN)
    return found


def _seeking(text: str, given: str, root: Path, place: str) -> Item:
    """Returns the query of a row of MomentSeeker, which gives a video, an image or nothing to seek by."""
    if given.endswith(".mp4"):
        return _video(_sampled(root, given), place, SEEK_BY_VIDEO, text, count=None)
    if not given.endswith(".jpg"):
        return Item(text, instruction=SEEK_BY_TEXT)
    image = inside(root, f"query_{given}")
    if not image.is_file():
        raise DataInvalid(f"{place}: {image} is missing", "Download the set's frames again.")
    return Item(text, image, instruction=SEEK_BY_IMAGE)


def _sampled(root: Path, video: str) -> Path:
    """Returns the folder with the frames of a video of MomentSeeker."""
    return inside(root / "video_frames", video.replace("/", "_").split(".mp4")[0])


def _options(question: str, answers: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the question with the answers in lines below it, and the answers as they stand there."""
    lines = [f"({LETTERS[number]}) {answer}" for number, answer in enumerate(answers)]
    return "\n".join([question, "Options:", *lines]).rstrip(), lines


@cache
def _labels(name: str) -> list[str]:
    classes: dict[str, str] = yaml.safe_load(Path(__file__).with_name("video_labels.yaml").read_text(encoding="utf-8"))
    if name not in classes:
        raise UsageError(f"{name}: its classes are not known", f"Known are those of {', '.join(classes)}.")
    return classes[name].split()
