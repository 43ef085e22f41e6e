"""What a recipe is worth: the distilled student beside the same student without a teacher, and each addition beside its
base, on the emoji corpus, with several seeds. All else is equal: data, steps, batches, seeds, and nothing is tuned.

    python benchmarks/recipes.py                  what five minutes suffice for, the most important first
    python benchmarks/recipes.py --minutes 40     all of it

Trainings are of few steps, and those without a teacher of a smaller image tower: the table says what helps such
trainings, no more. The teacher is the workspace's, trained first where there is none; what it computes is kept.
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

from components.quiet import configure

configure()

# isort: split
import numpy as np
import typer
import yaml
from rich.console import Console

from components import config as configuration
from components.config import Config
from components.corpus import Item, Manifest, task_names
from components.embedder import Embedder, TorchEmbedder, Vectors, fingerprint
from components.evaluation import DevScorer, evaluate, read_suite
from components.evaluation.sets import Split
from components.profiles import overlay, read_profile
from components.scores import Model, Scores
from components.training import TrainingPaths, embed_with_teacher, mine_negatives, train_model
from components.training.train import digest
from components.workspace import DATA, STATE, TEACHER
from table import Row, show

ROOT = Path(__file__).resolve().parent.parent
Overlay = Mapping[str, Any]
OVERALL = "overall"
TRANSLATED = "TranslatedNameToName"
PREFIX = 96
TEMPERATURE = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two trainings, each as changes of `params.yaml`: of `distillation`, with the teacher, or of `teacher`, without.

    `measured` is the overall score or a set's. `dimension` is how much of a vector counts (None: all), `task` one of
    the training set without which the addition does nothing, `is_goal` whether the addition must be better.
    """

    name: str
    base: Overlay
    addition: Overlay
    measured: str = OVERALL
    split: Split = "dev"
    dimension: int | None = None
    task: str | None = None
    is_goal: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared(Row):
    """The mean of the addition's scores over the seeds and, as `peer`, of its base's; a spread is least and most.

    `goal` is of the ratio; it is met outside the spread, as `verdict` says.
    """

    spread: tuple[float, float]
    peer_spread: tuple[float, float]
    verdict: str


class OutOfTime(Exception):
    """Another training would end after the deadline."""


def main(
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="One seed and a few steps: only that it runs.")] = False,
    workspace: Annotated[Path, typer.Option(help="Where `embedline run` was called.")] = Path(),
    cache: Annotated[Path | None, typer.Option(help="Keeps what the teacher has computed.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many.")] = 3,
    steps: Annotated[int, typer.Option(min=8, help="Of each training.")] = 100,
    minutes: Annotated[float, typer.Option(help="No training is begun that would end later.")] = 5,
    only: Annotated[str, typer.Option(help="Only comparisons that have this in their name.")] = "",
) -> None:
    if not task_names(workspace / DATA, "train"):
        raise SystemExit(f"{workspace / DATA} has nothing to train on: `embedline ingest` builds the emoji corpus")
    seeds, steps = (1, 8) if quick else (seeds, steps)
    configured = yaml.safe_load((ROOT / configuration.PARAMETERS).read_text(encoding="utf-8"))
    parameters = overlay(configured, few_steps(steps))
    laboratory = Laboratory(
        parameters,
        workspace,
        cache or workspace / STATE / "recipes",
        time.monotonic() + 60 * minutes,
    )
    rows, left = [], []
    for comparison in comparisons(parameters, steps):
        if only not in comparison.name:
            continue
        if comparison.task and comparison.task not in laboratory.tasks:
            left.append(f"{comparison.name} (the data set has no {comparison.task}: ingest it again)")
            continue
        try:
            rows.append(laboratory.compare(comparison, range(seeds)))
        except OutOfTime:
            left.append(f"{comparison.name} (no time)")
    for name in left:
        tell(f"left out: {name}")
    show(f"Recipes: {seeds} seeds, {steps} steps", rows, machine, "in brackets: the base; spread: of the seeds")


def comparisons(parameters: Overlay, steps: int) -> list[Comparison]:
    """Returns what is compared, the most important first."""
    student: Overlay = {"distillation": {}}
    plain = losses("contrastive", temperature=TEMPERATURE)
    alone = without_teacher(parameters["distillation"])
    clean = overlay(profile("mobileclip", steps), {"teacher_embeddings": {"views": 0}})
    whole: Overlay = {"distillation": {"matryoshka_dimensions": []}}
    mined = {"negatives": {"per_query": 2}, "teacher": {"negatives_per_query": 2}}
    souped = {"teacher": {"early_stopping": {"every": steps // 4, "patience": steps, "soup": 3}}}
    return [
        Comparison("distilled (no teacher)", alone, student, is_goal=True),
        Comparison(
            "distilled (no teacher, twice the steps)",
            overlay(alone, {"teacher": {"schedule": {"steps": 2 * steps}}}),
            student,
        ),
        Comparison("distilled (started from the teacher, contrastive alone)", taught_nothing(parameters), student),
        Comparison("llave: hardness (plain)", plain, losses("contrastive", temperature=TEMPERATURE, hardness=9.0)),
        Comparison(
            "rzenembed: false-negative margin (plain)",
            plain,
            losses("contrastive", temperature=TEMPERATURE, false_negative_margin=0.1),
        ),
        Comparison(
            "clip: learnt temperature (fixed)", plain, losses("contrastive", temperature=TEMPERATURE, learnt=True)
        ),
        Comparison("siglip: sigmoid (InfoNCE)", plain, losses("sigmoid")),
        Comparison("hard negatives (none)", plain, overlay(plain, mined)),
        Comparison("soup (last step; eval split)", plain, overlay(plain, souped), split="eval"),
        Comparison(f"matryoshka at {PREFIX} (none)", whole, student, dimension=PREFIX),
        Comparison("jasper (default student)", student, profile("jasper", steps)),
        Comparison(
            "xvlm2vec: TranslatedNameToImage (default student)",
            student,
            profile("xvlm2vec", steps),
            measured="TranslatedNameToImage",
            task=TRANSLATED,
        ),
        Comparison("mobileclip: two stored views (images as they are)", clean, profile("mobileclip", steps)),
    ]


def few_steps(steps: int) -> Overlay:
    """Returns the changes that every training has: it takes ten to twenty seconds on two cores."""
    schedule = {"steps": steps, "batch_size": 128, "augmentation": 0.0, "checkpoint_every": 10 * steps}
    small = {"kind": "residual", "image_size": 32, "widths": [32, 64, 128], "depths": [1, 1, 1]}
    return {
        "teacher": {"backbone": {"image": small}, "schedule": schedule},
        "distillation": {"schedule": schedule},
    }


def losses(name: str, **settings: Any) -> Overlay:
    """Returns a training without a teacher, on a pretrained text tower that stays as it is, by one loss."""
    rates = {"text_model": 0.0, "text_projection": 0.05}
    return {"teacher": {"phases": [{"lr_multipliers": rates, "losses": [{"name": name, **settings}]}]}}


def without_teacher(distillation: Overlay) -> Overlay:
    """Returns the training of the very student from nothing: new towers, all of which learn, from pairs alone."""
    phases = [{"losses": [{"name": "contrastive", "temperature": TEMPERATURE}]}]
    kept = {name: distillation[name] for name in ("backbone", "matryoshka_dimensions", "schedule")}
    return {"teacher": {**kept, "phases": phases}}


def taught_nothing(parameters: Overlay) -> Overlay:
    """Returns the default student's training, which starts from the teacher, without the losses that learn from it."""
    phases = [
        {**phase, "losses": [term for term in phase["losses"] if term["name"] == "contrastive"]}
        for phase in parameters["distillation"]["phases"]
    ]
    return {"distillation": {"phases": phases}}


def profile(name: str, steps: int) -> Overlay:
    """Returns a profile of the distillation, of so many steps."""
    changes = read_profile(name, ROOT / "profiles").changes
    return overlay(changes, {"distillation": overlay(changes["distillation"], {"schedule": {"steps": steps}})})


@dataclass
class Laboratory:
    """Trains and scores; what is asked for again is remembered. Raises `OutOfTime` when `deadline` is too near."""

    parameters: Overlay
    workspace: Path
    cache: Path
    deadline: float
    known: dict[str, Scores] = field(default_factory=dict)
    longest: float = 0.0

    @property
    def data(self) -> Path:
        return self.workspace / DATA

    @cached_property
    def tasks(self) -> list[str]:
        return task_names(self.data, "train")

    def compare(self, comparison: Comparison, seeds: Sequence[int]) -> Compared:
        sides = [
            [100 * self.score(changes, comparison, seed) for seed in seeds]
            for changes in (comparison.base, comparison.addition)
        ]
        base, addition = sides
        better, worse = min(addition) > max(base), max(addition) < min(base)
        return Compared(
            comparison.name,
            mean(addition),
            "%",
            mean(base),
            mean(addition) / mean(base),
            goal=1.0 if comparison.is_goal else None,
            met=better if comparison.is_goal else None,
            spread=(min(addition), max(addition)),
            peer_spread=(min(base), max(base)),
            verdict="better" if better else "worse" if worse else "within the spread",
        )

    def score(self, changes: Overlay, comparison: Comparison, seed: int) -> float:
        """Returns the score of a training, 0 to 1."""
        key = json.dumps([changes, seed, comparison.split, comparison.dimension], sort_keys=True)
        if key not in self.known:
            began = time.monotonic()
            if began + self.longest > self.deadline:
                raise OutOfTime
            self.known[key] = self.trained(changes, seed, comparison.split, comparison.dimension)
            seconds = time.monotonic() - began
            self.longest = max(self.longest, seconds)
            tell(f"{comparison.name}: seed {seed}: {self.known[key].aggregates[OVERALL]:.3f} in {seconds:.0f} s")
        scores = self.known[key]
        return scores.aggregates[OVERALL] if comparison.measured == OVERALL else scores.tasks[comparison.measured].score

    def trained(self, changes: Overlay, seed: int, split: Split, dimension: int | None) -> Scores:
        """Returns the scores of what a training of these changes makes, trained and scored in a temporary folder."""
        section = "distillation" if "distillation" in changes else "teacher"
        seeded = overlay(changes, {section: overlay(changes[section], {"schedule": {"seed": seed}})})
        seeded = overlay(self.parameters, seeded)
        config = configuration.parse(overlay(seeded, {"negatives": {"model": str(self.teacher)}}))
        recipe = config.distillation if section == "distillation" else config.teacher
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            places = TrainingPaths(
                self.data,
                self.negatives(config) if recipe.negatives_per_query else folder / "negatives",
                folder / "model",
                folder / "checkpoints",
                *((self.teacher, self.embeddings(config)) if section == "distillation" else ()),
            )
            train_model(recipe, places, lambda step, metrics: None, DevScorer(self.data))
            embedder: Embedder = TorchEmbedder(places.output, config.evaluation.batch_size, recipe.schedule.precision)
            embedder = Prefix(embedder, dimension) if dimension else embedder
            model = Model(section, "of a benchmark", embedder.dimension, None)
            suite = read_suite(self.data, split)
            return evaluate(embedder, model, suite, config.evaluation, folder, lambda done: None)

    @cached_property
    def teacher(self) -> Path:
        """The workspace's teacher, or one that is trained as `params.yaml` says."""
        if (self.workspace / TEACHER).is_dir():
            return self.workspace / TEACHER
        recipe = configuration.read(ROOT / configuration.PARAMETERS).teacher
        place = self.cache / digest("teacher", recipe.model_dump_json(), self.digest)
        if not place.is_dir():
            tell("the workspace has no teacher: training one takes minutes")
            train_model(recipe, TrainingPaths(self.data, self.cache, place, self.cache), lambda step, metrics: None)
        return place

    @cached_property
    def digest(self) -> str:
        return Manifest.read(self.data).digest

    def embeddings(self, config: Config) -> Path:
        settings = config.teacher_embeddings
        place = self.cache / digest("embeddings", settings.model_dump_json(), self.digest, fingerprint(self.teacher))
        if not place.is_dir():
            embed_with_teacher(settings, self.teacher, self.data, place)
        return place

    def negatives(self, config: Config) -> Path:
        settings = config.negatives
        place = self.cache / digest("negatives", settings.model_dump_json(), self.digest, fingerprint(self.teacher))
        if not place.is_dir():
            mine_negatives(settings, self.data, place)
        return place


@dataclass(frozen=True)
class Prefix:
    """The first numbers of an embedder's vectors, normalised again."""

    embedder: Embedder
    dimension: int

    @property
    def name(self) -> str:
        return self.embedder.name

    def encode(self, items: Sequence[Item]) -> Vectors:
        vectors = self.embedder.encode(items)[:, : self.dimension]
        normalised: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normalised


def tell(line: str) -> None:
    Console(stderr=True).print(line, highlight=False)


if __name__ == "__main__":
    typer.run(main)
