"""The data set in numbers: one frame with a row for the whole, one for each task, one for each image.

Rows are read in batches and leave only their keys (8 bytes each) behind, so that memory stays small for large tasks.
"""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components.corpus.layout import Split, task_names
from components.corpus.manifest import Manifest
from components.corpus.row_batches import lengths
from components.corpus.rows import (
    CANDIDATE_COLUMNS,
    EVAL_SCHEMA,
    OPTIONAL_COLUMNS,
    TRAIN_SCHEMA,
    fits,
    is_list,
    negatives,
)
from components.validation.content import CODE_POINTS, Strings, character_counts, combine, is_among, repeated
from components.validation.images import Images

SPLITS: tuple[Split, ...] = ("train", "dev", "eval", "multilingual")
TESTS: tuple[Split, ...] = ("eval", "multilingual")
"""May ask the same as each other, for no model is fitted to either."""
BATCH_ROWS = {"train": 16_384, "dev": 512, "eval": 512, "multilingual": 512}
EXAMPLES = 3
UNKNOWN = "Unknown"
COUNTED_FAULTS = ("empty_sides", "uneven_candidates", "leaked", "wrong_labels", "repeated_candidates")
TASK_COLUMNS = [
    "split", "task", "schema_fault", "rows_in_manifest", "rows", "nulls", *COUNTED_FAULTS,
    "duplicate_fraction", "ambiguous_fraction", "longest_text", "unknown_fraction", "largest_class_fraction",
]  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """The frames that expectations judge, and for each task what explains a verdict.

    `tasks` has a row for each file of a split, with NaN where a wrong schema left nothing to measure. `examples` maps
    (split, task) to kinds of fault and the first rows that have it; `scripts` to the share of each script.
    """

    dataset: pd.DataFrame
    tasks: pd.DataFrame
    images: pd.DataFrame
    examples: dict[tuple[Split, str], dict[str, list[int]]]
    scripts: dict[tuple[Split, str], dict[str, float]]

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        return {"dataset": self.dataset, "tasks": self.tasks, "images": self.images}


@dataclass
class Task:
    """What the batches of one task leave behind: counts, row numbers of each fault, and uint64 keys of its pairs."""

    rows: int = 0
    nulls: int = 0
    longest_text: int = 0
    characters: np.ndarray = field(default_factory=lambda: np.zeros(CODE_POINTS, np.int64))
    faults: defaultdict[str, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    pair_rows: list[np.ndarray] = field(default_factory=list)
    instructions: list[np.ndarray] = field(default_factory=list)
    positives: list[np.ndarray] = field(default_factory=list)
    pairs: list[np.ndarray] = field(default_factory=list)
    prompted_pairs: list[np.ndarray] = field(default_factory=list)

    def add_texts(self, values: pa.Array) -> None:
        self.longest_text = max(self.longest_text, pc.max(pc.utf8_length(values)).as_py() or 0)
        self.characters += character_counts(values)

    def add_fault(self, kind: str, rows: np.ndarray) -> None:
        self.faults[kind].append(rows + self.rows)

    def add_pairs(self, rows: np.ndarray, instructions: np.ndarray, queries: np.ndarray, positives: np.ndarray) -> None:
        self.pair_rows.append(rows + self.rows)
        self.instructions.append(instructions)
        self.positives.append(positives)
        self.pairs.append(combine(queries, positives))

    @property
    def fault_rows(self) -> dict[str, list[int]]:
        """Returns the numbers of the rows that have a fault, for each kind of fault."""
        return {kind: np.unique(np.concatenate(rows)).tolist() for kind, rows in self.faults.items()}


def measure(data: Path) -> Measurements:
    """Returns the measurements of `data/`. Raises as `Manifest.read` does when there is no manifest to compare with."""
    manifest = Manifest.read(data)
    images = Images(data / "images")
    rows: list[dict[str, Any]] = []
    examples, scripts = {}, {}
    known = np.empty(0, np.uint64)
    for split in SPLITS:
        counted = _counted(manifest, split)
        pairs = [known]
        for name in sorted(counted.keys() | set(task_names(data, split))):
            path = data / split / f"{name}.parquet"
            size, fault = _open(path, split)
            row: dict[str, Any] = {"split": split, "task": name, "schema_fault": fault, "rows": size}
            row["rows_in_manifest"] = counted.get(name)
            if fault is None:
                task = _read(path, split, images)
                row |= _summary(task, known)
                examples[split, name] = {kind: faults[:EXAMPLES] for kind, faults in task.fault_rows.items() if faults}
                scripts[split, name] = _script_shares(task.characters)
                row["unknown_fraction"] = scripts[split, name].get(UNKNOWN, 0.0)
                pairs += task.pairs
            rows.append(row)
        if split not in TESTS:
            known = np.unique(np.concatenate(pairs))
    tasks = pd.DataFrame(rows, columns=TASK_COLUMNS).astype(dict.fromkeys(TASK_COLUMNS[3:], float))
    filled = tasks[tasks["rows"] > 0]
    dataset = pd.DataFrame(
        {
            "training_rows": [int(filled.loc[filled["split"] == "train", "rows"].sum())],
            "evaluation_sets": [int((filled["split"] == "eval").sum())],
        }
    )
    return Measurements(dataset, tasks, images.frame(), examples, scripts)


def _counted(manifest: Manifest, split: Split) -> dict[str, int]:
    """Returns the number of rows of each task of a split, as the manifest has it."""
    if split == "train":
        return manifest.tasks.train
    return {name: task.rows for name, task in getattr(manifest.tasks, split).items()}


def _open(path: Path, split: Split) -> tuple[float, str | None]:
    """Returns the number of rows of a file, NaN where it has none to count, and what is wrong with its columns."""
    try:
        metadata = pq.read_metadata(path)
    except FileNotFoundError:
        return float("nan"), "the file is missing"
    except (OSError, pa.ArrowException):
        return float("nan"), "the file is not parquet"
    found, wanted = metadata.schema.to_arrow_schema(), TRAIN_SCHEMA if split == "train" else EVAL_SCHEMA
    missing = [column.name for column in wanted if column.name not in OPTIONAL_COLUMNS.union(found.names)]
    wrong = [
        f"{column.name} is {found.field(column.name).type}"
        for column in wanted
        if column.name in found.names and not fits(found.field(column.name).type, column.type)
    ]
    return metadata.num_rows, "; ".join([f"there is no {name}" for name in missing] + wrong) or None


def _read(path: Path, split: Split, images: Images) -> Task:
    task = Task()
    add = _add_training if split == "train" else _add_evaluation
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS[split]):
            task.nulls += sum(_null_count(column) for column in batch.columns)
            add(task, batch, images)
            task.rows += batch.num_rows
    return task


def _null_count(column: pa.Array) -> int:
    within = column.flatten().null_count if is_list(column.type) else 0
    return int(column.null_count + within)


def _add_training(task: Task, batch: pa.RecordBatch, images: Images) -> None:
    text, image = _strings(batch, "qry"), _strings(batch, "qry_image_path")
    positive_text, positive_image = _strings(batch, "pos_text"), _strings(batch, "pos_image_path")
    query = combine(text.text_keys(), _image_keys(image, images))
    positive = combine(positive_text.text_keys(), _image_keys(positive_image, images))
    for values in (text.values, positive_text.values, _negatives(batch, "neg_text")):
        task.add_texts(values)
    images.keys(_negatives(batch, "neg_image_path").to_pylist())

    rows = np.arange(batch.num_rows)
    empty = text.is_blank() & image.is_empty() | positive_text.is_blank() & positive_image.is_empty()
    task.add_fault("empty_sides", rows[empty])
    instructions = combine(_strings(batch, "qry_inst").text_keys(), _strings(batch, "pos_inst").text_keys())
    task.add_pairs(rows, instructions, query, positive)


def _add_evaluation(task: Task, batch: pa.RecordBatch, images: Images) -> None:
    texts, paths = (lengths(batch[name]) for name in CANDIDATE_COLUMNS)
    even = texts == paths
    task.add_fault("uneven_candidates", np.flatnonzero(~even))
    rows, counts, batch = np.flatnonzero(even), texts[even], batch.filter(pa.array(even))

    instruction, candidate_instruction, text, image = (
        _strings(batch, name) for name in ("qry_inst", "tgt_inst", "qry_text", "qry_img_path")
    )
    candidate_text, candidate_image = (Strings(batch[name].flatten()) for name in CANDIDATE_COLUMNS)
    image_keys, candidate_image_keys = _image_keys(image, images), _image_keys(candidate_image, images)
    queries = combine(text.text_keys(), image_keys)
    candidates = combine(candidate_text.text_keys(), candidate_image_keys)
    task.add_texts(text.values)
    task.add_texts(candidate_text.values)

    row_of = np.repeat(np.arange(len(rows)), counts)
    task.add_fault("empty_sides", rows[text.is_blank() & image.is_empty()])
    task.add_fault("empty_sides", rows[row_of[candidate_text.is_blank() & candidate_image.is_empty()]])
    query_of, relevant, wrong = _relevant(batch, counts)
    task.add_fault("wrong_labels", rows[wrong])
    repeating, ambiguous = _repetitions(row_of, candidates, relevant)
    task.add_fault("repeated_candidates", rows[repeating])
    task.add_fault("ambiguous", rows[ambiguous])

    instructions = combine(instruction.text_keys(), candidate_instruction.text_keys())
    task.add_pairs(rows[query_of], instructions[query_of], queries[query_of], candidates[relevant])
    # Training rows without instruction columns carry the instruction in their text: compare with those as well.
    prompts = combine(_joined(instruction, text), image_keys)[query_of]
    targets = _joined(candidate_instruction.take(query_of), candidate_text.take(relevant))
    task.prompted_pairs.append(combine(prompts, combine(targets, candidate_image_keys[relevant])))


def _relevant(batch: pa.RecordBatch, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each relevant candidate's row and position among the flat candidates, and the wrongly labelled rows."""
    if "label" in batch.schema.names:
        label_counts = lengths(batch["label"])
        labels = pc.fill_null(batch["label"].flatten(), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        label_counts, labels = np.ones(len(counts), np.int64), np.zeros(len(counts), np.int64)
    query_of = np.repeat(np.arange(len(counts)), label_counts)
    inside = (labels >= 0) & (labels < counts[query_of])
    wrong = np.concatenate([np.flatnonzero(label_counts == 0), query_of[~inside]])
    starts = np.cumsum(counts) - counts
    return query_of[inside], (starts[query_of] + labels)[inside], wrong


def _repetitions(row_of: np.ndarray, candidates: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that hold a candidate twice, and those in which a relevant one also counts as irrelevant."""
    keys = combine(row_of, candidates)
    twice = is_among(keys, repeated(keys))
    is_relevant = np.zeros(len(keys), bool)
    is_relevant[relevant] = True
    confused = twice & is_relevant
    confused[confused] = is_among(keys[confused], np.sort(keys[twice & ~is_relevant]))
    return row_of[twice], row_of[confused]


def _negatives(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Returns the distinct values of a column of negatives, in which one cell may hold a list written out as text."""
    cells = _strings(batch, name).values.to_pylist()
    return pa.array([value for cell in cells for value, _ in negatives(cell, None)], pa.large_string())


def _strings(batch: pa.RecordBatch, name: str) -> Strings:
    """Returns a column; an optional one that is absent counts as empty."""
    return Strings(batch[name] if name in batch.schema.names else pa.repeat("", batch.num_rows))


def _joined(instruction: Strings, text: Strings) -> np.ndarray:
    """Returns a key for each row of the instruction followed by the text."""
    space = pa.scalar(" ", pa.large_string())
    return Strings(pc.binary_join_element_wise(instruction.to_arrow(), text.to_arrow(), space)).text_keys()


def _image_keys(paths: Strings, images: Images) -> np.ndarray:
    return images.keys(paths.values.to_pylist()).take(paths.codes)


def _summary(task: Task, known: np.ndarray) -> dict[str, float]:
    """Returns what is counted of a task, after adding the rows that repeat an earlier one or one of another split."""
    if task.rows:
        rows, pairs = np.concatenate(task.pair_rows), np.concatenate(task.pairs)
        keys = combine(np.concatenate(task.instructions), pairs)
        entries = pd.DataFrame({"row": rows, "key": keys}).drop_duplicates()
        task.faults["duplicates"] = [entries.loc[entries.duplicated("key"), "row"].to_numpy()]
        task.faults["leaked"] = [
            rows[is_among(np.concatenate(found), known)] for found in (task.pairs, task.prompted_pairs) if found
        ]
    counted = Counter({kind: len(rows) for kind, rows in task.fault_rows.items()})
    answers = np.unique(np.concatenate(task.positives or [known[:0]]), return_counts=True)[1]
    size = max(task.rows, 1)
    return {
        **{kind: counted[kind] for kind in COUNTED_FAULTS},
        "nulls": task.nulls,
        "duplicate_fraction": counted["duplicates"] / size,
        "ambiguous_fraction": counted["ambiguous"] / size,
        "longest_text": task.longest_text,
        "largest_class_fraction": answers.max(initial=0) / size,
    }


def _script_shares(characters: np.ndarray) -> dict[str, float]:
    """Returns the share of each script among the letters, largest first; `Unknown` are characters of no script."""
    shares: Counter[str] = Counter()
    for code_point in np.flatnonzero(characters).tolist():
        character = chr(code_point)
        if character.isalpha():
            shares[unicodedata.name(character, UNKNOWN).split()[0].capitalize()] += int(characters[code_point])
        elif _is_unknown(character):
            shares[UNKNOWN] += int(characters[code_point])
    return {script: round(count / shares.total(), 6) for script, count in shares.most_common()}


def _is_unknown(character: str) -> bool:
    category = unicodedata.category(character)
    return character == "\ufffd" or category in {"Cn", "Co", "Cs"} or (category == "Cc" and not character.isspace())
