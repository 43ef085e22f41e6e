"""The videos of MMEB v2 as their publishers sampled them: a folder of frames each, of which eight are taken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.errors import DataInvalid, UsageError
from components.evaluation.loaders.mirror import MEDIA, advice, media_folders, unpacked

FRAMES = 8
"""How many frames of a video all scores of MMEB v2 are given for."""
SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Place:
    """Where a set lies in MMEB v2: below `video-tasks/frames/FAMILY`, and its rows in one of `video-tasks/data`."""

    family: str
    folder: str
    tables: tuple[str, ...]


PLACES = {
    "K700": Place("video_cls", "K700", ("k700.jsonl",)),
    "SmthSmthV2": Place("video_cls", "SSv2", ("ssv2.jsonl",)),
    "HMDB51": Place("video_cls", "HMDB51", ("hmdb51.jsonl",)),
    "UCF101": Place("video_cls", "UCF101", ("ucf101.jsonl",)),
    "Breakfast": Place("video_cls", "Breakfast", ("breakfast.jsonl",)),
    "MVBench": Place("video_qa", "MVBench", ("mvbench",)),
    "Video-MME": Place("video_qa", "Video-MME", ("video-mme.jsonl",)),
    "NExTQA": Place("video_qa", "NExTQA", ("nextqa.jsonl",)),
    "EgoSchema": Place("video_qa", "EgoSchema", ("egoschema.jsonl",)),
    "ActivityNetQA": Place("video_qa", "ActivityNetQA", ("activitynetqa.jsonl",)),
    "DiDeMo": Place("video_ret", "DiDeMo", ("didemo.jsonl",)),
    "MSR-VTT": Place("video_ret", "MSR-VTT", ("msr-vtt.jsonl",)),
    "MSVD": Place("video_ret", "MSVD", ("msvd.jsonl",)),
    "VATEX": Place("video_ret", "VATEX", ("vatex.jsonl",)),
    "YouCook2": Place("video_ret", "YouCook2", ("youcook2-val.jsonl",)),
    "QVHighlight": Place("video_mret", "QVHighlight", ("qvhighlight.jsonl",)),
    "Charades-STA": Place("video_mret", "Charades-STA", ("charades_sta.jsonl",)),
    "MomentSeeker": Place("video_mret", "MomentSeeker", ("momentseeker_1k6.jsonl", "momentseeker.jsonl")),
}


def place_of(name: str) -> Place:
    """Returns the place of a set. Raises `UsageError` if MMEB v2 has no videos of that name."""
    if name not in PLACES:
        raise UsageError(f"{name}: MMEB v2 has no such set of videos", f"It has {', '.join(PLACES)}.")
    return PLACES[name]


def frame_root(name: str, mirror: Path) -> Path:
    """Returns the folder with the folders of a set's frames. Raises `DataInvalid` if there is none."""
    place = place_of(name)
    for media in media_folders(mirror):
        frames = media / "video-tasks/frames"
        family = unpacked(media, f"video-tasks/frames/{place.family}")
        # One published archive holds its files below the folder data/ziyan/video_retrieval.
        retrieval = (folder / "data/ziyan/video_retrieval" for folder in (family, frames))
        for parent in (family, frames, family / place.family, *retrieval):
            for folder in _named(parent, place.folder):
                return folder / "frames" if parent.name == "video_retrieval" else folder
    archive = f"video-tasks/frames/{place.family}.tar.gz*"
    raise DataInvalid(f"{name}: there are no frames in {mirror}", advice(MEDIA, mirror, [archive]))


def chosen_frames(folder: Path, place: str, count: int | None = FRAMES) -> tuple[Path, ...]:
    """Returns `count` frames at even distances from the first to the last, or all of them if there are fewer or it is
    None, in the order of the numbers in their names. Raises `DataInvalid`, saying which place needs them, if there are
    none.
    """
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    frames = sorted((name for name in names if name.lower().endswith(SUFFIXES)), key=by_number)
    if not frames:
        raise DataInvalid(f"{place}: there are no frames in {folder}", "Download the set's frames again.")
    if count is not None and len(frames) >= count:
        frames = [frames[step * (len(frames) - 1) // (count - 1)] for step in range(count)]
    return tuple(folder / frame for frame in frames)


def by_number(name: str) -> tuple[list[int | str], str]:
    """Returns the key that sorts frame_2 before frame_10, and no two names alike."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)], name


def _named(parent: Path, name: str) -> Iterator[Path]:
    """Yields the folder of that name; capitals and - or _ differ between the versions of the archives."""
    if parent.is_dir():
        wanted = name.lower().replace("_", "-")
        yield from (folder for folder in parent.iterdir() if folder.name.lower().replace("_", "-") == wanted)
