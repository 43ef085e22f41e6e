"""A params.yaml that fits a source: the data set is built once on trial and measured as validation measures it."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.config import parse
from components.corpus import Manifest, ingest, read_pairs, read_queries
from components.corpus.config import SOURCES, SourceSettings
from components.corpus.groups import words
from components.corpus.pairs import joined
from components.errors import DataInvalid
from components.scores.intervals import difference_interval

LARGEST_BATCH = 256
STEPS = {"teacher": 400, "distillation": 200}
MOST_EPOCHS = {"teacher": 24, "distillation": 48}
"""A step of the student costs little: its image tower is the teacher's, whose outputs are computed once."""
SCORES_WHILE_TRAINING = 8
CONFIDENCE = 0.95
CHANGED = 0.05
"""Of an equal model's answers, how many are right where they were wrong, and as many wrong where they were right."""
SHOWN = 5
MOST_BROKEN = 0.5


@dataclass(frozen=True)
class Facts:
    """What a source was found to hold; shares are of the rows."""

    corpus: dict[str, Any]
    train: dict[str, int]
    eval: dict[str, int]
    dev: dict[str, int]
    images: int
    quarantined: int
    broken_fraction: float
    shortest_side: int
    longest_side: int
    aspect: float
    longest_text: int
    duplicate_fraction: float
    scripts: dict[str, float]
    chance: float
    tie_fraction: float
    joined: str
    shown: list[tuple[str, str]]

    @property
    def pairs(self) -> int:
        """How many pairs are trained on; both directions of a pair are one."""
        return sum(rows for task, rows in self.train.items() if not task.endswith("_i2t"))


def look_at(source: dict[str, Any], name: str) -> Facts:
    """Returns the facts of a source: its section `corpus`, without `name` and shares, is `source`.

    Raises as `ingest` does, and `DataInvalid` if most rows are broken, or too few are left for all splits.
    """
    from components.validation.measure import measure

    section = {**source, "name": name, "licence": "", "seed": 0, "dev_fraction": 0.1, "eval_fraction": 0.2}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        settings = SOURCES.validate({**section, "quarantine_limit": 1.0})
        assert isinstance(settings, SourceSettings)
        manifest = ingest(settings, data)
        broken = manifest.quarantined / max(1, manifest.quarantined + _rows(manifest))
        if broken > MOST_BROKEN:
            reasons = Counter(json.loads(line)["reason"] for line in (data / "quarantine.jsonl").open(encoding="utf-8"))
            raise DataInvalid(
                f"{source['location']}: {broken:.0%} of the rows cannot be used: {dict(reasons)}",
                "Correct the source, or name other columns.",
            )
        if not (manifest.tasks.train and manifest.tasks.dev and manifest.tasks.eval):
            raise DataInvalid(
                f"{source['location']}: {_rows(manifest)} usable pairs are too few to train and to evaluate",
                "Give at least fifty pairs that are not all of one group.",
            )
        measured = measure(data)
        shares = measured.tasks[["duplicate_fraction", "ambiguous_fraction"]].to_numpy(float)
        scripts: Counter[str] = Counter()
        for (split, _), each in measured.scripts.items():
            if split == "train":
                scripts.update(each)
        chances, ties = zip(*(_guessing(data, task) for task in manifest.tasks.eval), strict=True)
        return Facts(
            corpus=section | {"quarantine_limit": max(0.01, _up(broken, 2))},
            train=manifest.tasks.train,
            eval={task: found.rows for task, found in manifest.tasks.eval.items()},
            dev={task: found.rows for task, found in manifest.tasks.dev.items()},
            images=manifest.images,
            quarantined=manifest.quarantined,
            broken_fraction=broken,
            shortest_side=int(measured.images["shortest_side"].min()),
            longest_side=int(measured.images["longest_side"].max()),
            aspect=float(measured.images["aspect"].max()),
            longest_text=int(measured.tasks["longest_text"].max()),
            duplicate_fraction=float(np.nanmax(shares)),
            scripts={script: share / sum(scripts.values()) for script, share in scripts.most_common(3)},
            chance=float(np.mean(chances)),
            tie_fraction=max(ties),
            joined=joined(data).partition(" (")[0],
            shown=_first(data, next(iter(manifest.tasks.train))),
        )


def margin_of(queries: list[int]) -> float:
    """Returns the least margin, rounded up to 0.01, with which an equal model passes sets of so many queries.

    Equal is one that wins as many queries as it loses, one in twenty each; the bound is the gate's.
    """
    sets = []
    for count in queries:
        changed = math.ceil(CHANGED * count)
        sets.append(np.concatenate([np.ones(changed), -np.ones(changed), np.zeros(max(0, count - 2 * changed))]))
    lower, _ = difference_interval(sets, 2 * CONFIDENCE - 1)
    return min(1.0, _up(-float(lower), 2))


def batch_size_of(pairs: int) -> int:
    """Returns the largest power of two that is at most a third of the pairs, between 4 and 256."""
    return int(max(4, min(LARGEST_BATCH, 2 ** math.floor(math.log2(max(4, pairs / 3))))))


def parameters(facts: Facts) -> str:
    """Returns the text of a params.yaml for the source, which is one that `parse` takes."""
    rows = sum(facts.train.values())
    batch = batch_size_of(facts.pairs)
    epochs = {name: max(1, min(MOST_EPOCHS[name], round(steps * batch / rows))) for name, steps in STEPS.items()}
    steps = {name: max(1, round(count * rows / batch)) for name, count in epochs.items()}
    queries = list(facts.eval.values())
    margin = margin_of(queries)
    error = math.sqrt(facts.chance * (1 - facts.chance) / sum(queries))
    values = {
        "name": facts.corpus["name"],
        "facts": f"{facts.pairs} training pairs, {facts.images} images, held-out queries: {spelt(facts.eval)}",
        "corpus": "\n".join(f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.corpus.items()),
        "scripts": ", ".join(f"{script} {share:.0%}" for script, share in facts.scripts.items()),
        "min_train_rows": max(1, int(0.9 * rows)),
        "min_eval_sets": len(facts.eval),
        "min_image_side": min(16, facts.shortest_side),
        "max_image_side": max(4096, facts.longest_side),
        "max_aspect": max(4.0, _up(facts.aspect, 1)),
        "max_text_length": max(2000, facts.longest_text),
        "max_duplicate_fraction": max(0.02, min(1.0, _up(facts.duplicate_fraction, 2))),
        "teacher_epochs": epochs["teacher"],
        "student_epochs": epochs["distillation"],
        "teacher_steps": steps["teacher"],
        "student_steps": steps["distillation"],
        "teacher_every": max(1, steps["teacher"] // SCORES_WHILE_TRAINING),
        "student_every": max(1, steps["distillation"] // SCORES_WHILE_TRAINING),
        "batch": batch,
        "sub_batches": 2 if len(facts.train) > 1 else 1,
        "queries": sum(queries),
        "sets": len(queries),
        "floor": min(1.0, _up(facts.chance + 2 * error, 3)),
        "chance": f"{facts.chance:.3f}",
        "margin": margin,
        "max_task_drop": max(0.05, margin),
        "max_tie_rate": min(1.0, _up(facts.tie_fraction + 0.05, 2)),
    }
    text = re.sub(r"<(\w+)>", lambda found: str(values[found[1]]), TEMPLATE)
    parse(yaml.safe_load(text))
    return text


def spelt(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def as_json(facts: Facts) -> dict[str, Any]:
    return asdict(facts) | {"pairs": facts.pairs}


def _rows(manifest: Manifest) -> int:
    """Returns how many pairs were usable, nearly: both directions of a pair are one."""
    held_out = (found for split in (manifest.tasks.dev, manifest.tasks.eval) for found in split.items())
    return sum(
        rows
        for task, rows in (*manifest.tasks.train.items(), *((task, found.rows) for task, found in held_out))
        if not task.endswith("_i2t")
    )


def _guessing(data: Path, task: str) -> tuple[float, float]:
    """Returns the share of right answers by chance, and the share of queries that a model of words alone cannot tell:
    a wrong candidate has the same words as a right one, or another query's."""
    chances, ties = [], []
    for query in read_queries(data, "eval", task):
        seen = [words(candidate.text or "") for candidate in query.candidates] if query.candidates[0].text else []
        right = {seen[position] for position in query.relevant} if seen else set()
        chances.append(len(query.relevant) / len(query.candidates))
        ties.append(any(each in right for place, each in enumerate(seen) if place not in query.relevant))
    return float(np.mean(chances)), float(np.mean(ties))


def _first(data: Path, task: str) -> list[tuple[str, str]]:
    shown = []
    for pair in read_pairs(data, task):
        image = pair.query.image or pair.positive.image
        shown.append((getattr(image, "name", ""), pair.query.text or pair.positive.text or ""))
        if len(shown) == SHOWN:
            break
    return shown


def _up(value: float, digits: int) -> float:
    scale = float(10**digits)
    return math.ceil(round(value * scale, 6)) / scale


TEMPLATE = """\
# yaml-language-server: $schema=params.schema.json
# Written by `embedline init` for <name>: <facts>.
# What depends on the data was measured; change what you know better, then run `embedline run`.
# params.schema.json says what each key may be; so does the config.py of each folder in components/.

corpus:
<corpus>

validation:                     # what was measured; the next version of the data may not fall short of it
  min_train_rows: <min_train_rows>
  min_eval_sets: <min_eval_sets>
  min_image_side: <min_image_side>
  max_image_side: <max_image_side>
  max_aspect: <max_aspect>
  max_text_length: <max_text_length>
  max_duplicate_fraction: <max_duplicate_fraction>
  max_class_fraction: 0.95

negatives:
  model: null                   # a model directory or hub name mines hard negatives for the recipes that ask for them
  reranker: null
  per_query: 4
  depth: 50
  margin: 0.95
  other_modalities: false

teacher:
  backbone:
    kind: towers
    # English; the texts are <scripts>. For other languages name a multilingual model.
    text: {kind: pretrained, model: sentence-transformers/all-MiniLM-L6-v2}
    image: &image_tower {kind: residual, image_size: 64, widths: [64, 128, 384], depths: [1, 2, 1]}
    dimension: 384
    max_tokens: 32
    instruction_weight: 0.2
  phases:
    - &small_images
      fraction: 0.75
      image_size: 32            # a quarter of the places: more than twice the steps in the same time
      lr_multipliers: {text_model: 0, text_projection: 0.05}  # the text space is what carries over to new words
      losses:
        - {name: contrastive, temperature: 0.05}
    - <<: *small_images
      fraction: 0.25
      image_size: 64
  early_stopping: {every: <teacher_every>, patience: 3}  # in steps; scored on the dev split
  schedule: &schedule           # about <teacher_steps> steps
    epochs: <teacher_epochs>
    batch_size: <batch>         # at most a third of the pairs
    sub_batches: <sub_batches>
    task_weights: {}            # every task counts 1
    augmentation: 1.0
    no_flip_tasks: []        # tasks whose answers depend on left and right
    learning_rate: 0.002
    weight_decay: 0.05
    warmup_fraction: 0.15
    precision: auto             # bfloat16 where the processor has it, else float32
    checkpoint_every: 100
    log_every: 20
    seed: 0

teacher_embeddings:
  others: []
  views: 0
  augmentation: 1.0
  no_flip_tasks: []
  seed: 0

distillation:
  backbone:
    kind: towers
    text: {kind: word_vectors, tokenizer: sentence-transformers/all-MiniLM-L6-v2, width: 96}
    image: *image_tower         # layers like the teacher's start as those
    dimension: 384
    max_tokens: 32
    instruction_weight: 0.2
  phases:
    - lr_multipliers: {vision_model: 0, visual_projection: 0}  # the teacher's image tower, computed once
      losses:
        - {name: vectors, weight: 6.0}
        - {name: similarities, student_temperature: 0.05, teacher_temperature: 0.05}
        - {name: contrastive, weight: 0.5, temperature: 0.05}
  matryoshka_dimensions: [384, 192, 96]
  early_stopping: {every: <student_every>, patience: 3}
  schedule:                     # about <student_steps> steps
    <<: *schedule
    epochs: <student_epochs>
    augmentation: 0.0

export:
  opset: 20
  variants:
    - {name: fp32, parity_cosine: 0.9999}
    - {name: int8, parity_cosine: 0.97, calibration_images: 256}
  parity_items: 64

evaluation:
  batch_size: 256

serving:
  variant: int8
  http_port: 8000
  grpc_port: 8001
  metrics_port: 8002
  threads: 2
  max_batch_size: 64
  startup_seconds: 60

promotion:
  floors: {overall: <floor>}    # clearly above chance, which scores <chance>; raise it to what you need
  # <queries> queries in <sets> sets cannot show a smaller difference: an equal model, which wins one query in
  # twenty and loses as many, passes with this margin and with none below it. More held-out pairs allow a smaller one.
  margin: <margin>
  max_task_drop: <max_task_drop>
  confidence: 0.95
  max_tie_rate: <max_tie_rate>
  min_parity_cosine: 0.97
  max_latency_ms: 100           # the median of single text requests
  max_size_bytes: 500000000
  sign_flips: 2000
"""
