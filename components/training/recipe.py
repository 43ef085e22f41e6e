"""One training as its recipe says: what is drawn, how it becomes vectors, what is minimised, phase after phase."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor, nn

from components.embedder import Embedder
from components.progress import Progress
from components.training import processes, telemetry
from components.training.adapters import add_adapter, merge_adapter
from components.training.batch import Batch, BatchBuilder
from components.training.chunks import in_chunks, require_independent_rows
from components.training.config import Phase, Planned, Recipe
from components.training.dev_scores import DevScores
from components.training.encoder import Encoder
from components.training.examples import Examples
from components.training.loop import freeze, train
from components.training.losses import SubBatch, build
from components.training.negatives import HardNegatives
from components.training.sampler import planned
from components.training.teacher_embeddings import TeacherEmbeddings, targets_of

Scorer = Callable[[Embedder], float]
"""Returns an embedder's score on the dev split."""


@dataclass(frozen=True)
class TrainingData:
    """What a training learns from; a teacher learns without `teachers`."""

    examples: Examples
    negatives: Mapping[str, HardNegatives] | None = None
    teachers: TeacherEmbeddings | None = None


class Trained(nn.Module):
    """What a checkpoint holds: the model, and what the losses learn (a temperature, a projection to a teacher)."""

    def __init__(self, model: nn.Module, losses: nn.ModuleList) -> None:
        super().__init__()
        self.model = model
        self.losses = losses


def train_by(
    recipe: Recipe,
    encoder: Encoder,
    data: TrainingData,
    workspace: Path,
    report: Progress,
    scorer: Scorer | None = None,
) -> None:
    """Trains the encoder's module in place. Features and checkpoints go to `workspace`, from which a killed run goes
    on. `scorer` is asked if the recipe stops early. What the data decide of the schedule is reported as step 0.
    Raises as `planned` and `train` do."""
    whole = planned(data.examples, recipe.schedule)
    if (whole.steps, whole.batch_size) != (recipe.schedule.steps, recipe.schedule.batch_size):
        report(0, {"steps": whole.steps, "batch_size": whole.batch_size})
    if recipe.adapter:
        add_adapter(encoder.module, recipe.adapter, recipe.schedule.seed)
    learns = {name for name, parameter in encoder.module.named_parameters() if parameter.requires_grad}
    ends = [round(whole.steps * share) for share in accumulate((phase.fraction for phase in recipe.phases), initial=0)]
    done = 0
    for number, phase in enumerate(recipe.phases):
        steps = max(1, ends[number + 1] - ends[number])
        schedule = whole.model_copy(update={"steps": steps, "seed": whole.seed + number})
        folder = workspace / f"phase-{number}"
        freeze(encoder.module, phase, learns)
        with processes.first_before_others():
            encoder.prepare(schedule, folder, phase.image_size)
        objective = PhaseObjective(recipe, phase, schedule, encoder, data, folder)
        train(
            Trained(encoder.module, nn.ModuleList(objective.functions)),
            phase,
            objective,
            schedule.model_copy(update={"steps": objective.steps}),
            folder / "checkpoint.pt",
            _after(done, report),
            _dev_scores(recipe, encoder, scorer, folder),
        )
        done += objective.steps
    if recipe.adapter:
        merge_adapter(encoder.module)


def _dev_scores(recipe: Recipe, encoder: Encoder, scorer: Scorer | None, folder: Path) -> DevScores | None:
    if not (recipe.early_stopping and scorer):
        return None
    return DevScores(recipe.early_stopping, lambda: scorer(encoder.embedder()), folder / "best")


def _after(done: int, report: Progress) -> Progress:
    """Returns a report that counts the steps of earlier phases too."""
    return lambda step, metrics: report(done + step, metrics)


class PhaseObjective:
    """The objective of one phase: draws the batch of a step, lets the encoder compute it, and asks the losses."""

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        schedule: Planned,
        encoder: Encoder,
        data: TrainingData,
        folder: Path,
    ) -> None:
        teachers = data.teachers.dimensions if data.teachers else []
        self.device = next(encoder.module.parameters()).device
        self.functions = [
            build(term.name, term.settings, encoder.dimension, teachers).to(self.device) for term in phase.losses
        ]
        self.terms = list(zip(phase.losses, self.functions, strict=True))
        self.dimensions = recipe.matryoshka_dimensions or [encoder.dimension]
        self.schedule = schedule
        self.encoder = encoder
        self.data = data
        self.folder = folder
        self.draw = BatchBuilder(data.examples, schedule, data.negatives)
        self.steps = self.draw.sampler.steps
        self.last: tuple[Tensor, Tensor] | None = None

    def losses(self, step: int) -> dict[str, Tensor]:
        batch = self.draw(step)
        vectors = batch.split(self._encode(batch.items, step))
        self.last = vectors[0].detach(), vectors[1].detach()
        teachers = self._teachers(batch, step)
        totals: dict[str, Tensor] = {}
        for task in batch.tasks:
            rows, negatives = task.rows, vectors[2]
            own_negatives = None if negatives is None else negatives[rows]
            sides = vectors[0][rows], vectors[1][rows], own_negatives
            scores = None if batch.scores is None else batch.scores[rows].to(self.device)
            whole = SubBatch(*sides, batch.equal(rows).to(self.device), targets_of(teachers, rows), scores)
            prefixes = [whole.prefix(dimension) for dimension in self.dimensions]
            for term, loss in self.terms:
                asked = prefixes if loss.of_prefixes else [whole]
                value = torch.stack([loss(part) for part in asked]).mean()
                totals[term.name] = totals.get(term.name, 0) + term.weight * task.fraction * value
        return totals

    def watch(self) -> dict[str, float]:
        """Returns what the last step's vectors and the losses show."""
        shown = {"memory_gib": telemetry.memory()}
        for _, loss in self.terms:
            shown |= loss.logged()
        return shown | (telemetry.measure(*self.last) if self.last and len(self.last[0]) > 1 else {})

    def keep_batch(self, step: int) -> Path:
        """Writes the rows of a step as JSON lines, as a person would read them; returns the file."""
        batch, examples = self.draw(step), self.data.examples
        path = self.folder / f"batch-of-step-{step}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as stream:
            for query, positive in zip(batch.queries.tolist(), batch.positives.tolist(), strict=True):
                row = {"query": examples.content(query), "positive": examples.content(positive)}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return path

    def _encode(self, items: Tensor, step: int) -> Tensor:
        """Returns the vectors of all items, of which every process computes its part, a chunk at a time."""
        own = items[processes.own(len(items))]
        chunk = self.schedule.chunk
        if chunk or processes.count() > 1:
            require_independent_rows(self.encoder.module)
        vectors = in_chunks(self.encoder, own, step, chunk, self.device) if chunk else self.encoder(own, step)
        return processes.gather(vectors, len(items))

    def _teachers(self, batch: Batch, step: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        if self.data.teachers is None:
            return []
        vectors = self.data.teachers(batch.items, self.encoder.views(step))
        return [batch.split(part.to(self.device)) for part in vectors]
