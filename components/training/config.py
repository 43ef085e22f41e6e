"""The sections of `params.yaml` that say how models are trained: `negatives`, `teacher`, `teacher_embeddings`,
`distillation`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from components.embedder.config import IMAGE_TOWERS, TEXT_TOWERS, ImageTower, TextTower
from components.found_by_name import FoundByName
from components.sections import Fraction, NotNegative, Positive, Rate, Section, Seed, demand

LOSSES = FoundByName("components.training.losses", "name")
RANDOM = "random:"
"""How the name of a backbone begins that starts from no model."""


class Towers(Section):
    """A dual encoder: two towers, projected to one space; an item of several parts is the sum of their vectors."""

    kind: Literal["towers"]
    text: TextTower
    image: ImageTower
    dimension: Positive
    max_tokens: Positive
    instruction_weight: NotNegative

    def modules(self) -> list[str]:
        return [f"{TEXT_TOWERS.package}.{self.text.kind}", f"{IMAGE_TOWERS.package}.{self.image.kind}"]


class Whole(Section):
    """A model that sentence-transformers loads whole: CLIP, SigLIP, a vision-language model.

    `model` is a directory, a name on the hub, or `random:ARCHITECTURE`, a tiny one for trying a recipe out.
    """

    kind: Literal["whole"]
    model: str
    pooling: Literal["lasttoken", "mean", "cls"] | None = None
    gradient_checkpointing: bool = False


class LossTerm(Section):
    """One loss by the name of its file in `components/training/losses`, its weight, and the settings of that file."""

    model_config = ConfigDict(extra="allow")
    name: str
    weight: Rate = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def modules(self) -> list[str]:
        return [f"{LOSSES.package}.{self.name}"]

    @model_validator(mode="after")
    def _is_a_loss(self) -> Self:
        from components.training.losses import check  # torch takes seconds, and few commands read the configuration

        check(self.name, self.settings)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Returns what a term of each loss may hold: `name`, `weight`, and the settings of that loss."""
        weight = {"exclusiveMinimum": 0, "type": "number", "default": 1.0}
        terms = []
        for name in LOSSES.names():
            own = LOSSES.settings(name).model_json_schema()
            own["properties"] = {"name": {"const": name}, "weight": weight, **own.get("properties", {})}
            own["required"] = ["name", *own.get("required", [])]
            terms.append(own | {"title": name})
        return {"oneOf": terms}


class Phase(Section):
    """A part of a training: what is minimised, which parameters learn how fast, for which fraction of the steps.

    `lr_multipliers` multiply the learning rate, by a part of the parameters' names; 0 freezes them, others have 1.
    Images are shown at `image_size` (none: the tower's own): many small ones, then fewer large ones, teach more in
    the same time (Li et al., An Inverse Scaling Law for CLIP Training, 2023).
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    image_size: Positive | None = None
    lr_multipliers: dict[str, NotNegative] = Field(default_factory=dict)
    losses: Annotated[list[LossTerm], Field(min_length=1)]


class Schedule(Section):
    """How long, how fast, on what, on how many pairs at once.

    A step draws `sub_batches` tasks by weight (1 where none is given), or first by modality and then by weight.
    `distinct` rows of a sub-batch share no query, no positive, or neither. Images of `no_flip_tasks`, where
    answers depend on left and right, are never mirrored. With `companions`, pairs of a bare text and a drawn image
    join; `chunk` rows are computed at a time (0: all). `epochs`, how often each pair is drawn, stands in place of
    `steps` where it is not known how many pairs there are. `precision` auto is bfloat16 where the processor has it.
    """

    steps: Positive | None = None
    epochs: Positive | None = None
    stop: Literal["steps", "first_exhausted", "all_exhausted"] = "steps"
    batch_size: Annotated[int, Field(ge=2)]
    sub_batches: Positive
    task_weights: dict[str, NotNegative]
    balance: Literal["weights", "modalities"] = "weights"
    distinct: Literal["none", "query", "positive", "both"] = "none"
    companions: bool = True
    augmentation: Fraction
    no_flip_tasks: list[str]
    learning_rate: Rate
    weight_decay: NotNegative
    warmup_fraction: Fraction
    precision: Literal["auto", "float32", "bfloat16"]
    chunk: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Positive
    log_every: Positive
    seed: Seed

    @model_validator(mode="after")
    def _has_negatives(self) -> Self:
        demand(self, (self.steps is None) != (self.epochs is None), "needs one of steps and epochs, and not both")
        enough = self.batch_size >= 2 * self.sub_batches
        return demand(self, enough, "batch_size must be at least twice sub_batches, or a sub-batch has no negatives")


class Planned(Schedule):
    """A schedule whose number of steps is known."""

    steps: Positive


class Adapter(Section):
    """Low-rank changes of the layers whose names end in one of `targets` (none: every linear layer), merged at save."""

    kind: Literal["lora", "dora"]
    rank: Positive
    alpha: Rate
    dropout: Fraction
    targets: list[str]


class EarlyStopping(Section):
    """Scores the dev split `every` so many steps; stops after `patience` scores in a row without a better one.

    The best weights are kept, or the average of the `soup` best where that scores higher still.
    """

    every: Positive
    patience: Positive
    soup: Positive = 1


class Recipe(Section):
    """How one model is trained."""

    backbone: Annotated[Towers | Whole, Field(discriminator="kind")]
    phases: Annotated[list[Phase], Field(min_length=1)]
    matryoshka_dimensions: list[Positive] = Field(default_factory=list)
    adapter: Adapter | None = None
    early_stopping: EarlyStopping | None = None
    negatives_per_query: Annotated[int, Field(ge=0)] = 0
    processes: Positive = 1
    schedule: Schedule

    @property
    def starting_models(self) -> list[str]:
        """The models that the recipe starts from, as it names them."""
        if isinstance(self.backbone, Towers):
            return [*self.backbone.text.pretrained, *self.backbone.image.pretrained]
        return [] if self.backbone.model.startswith(RANDOM) else [self.backbone.model]

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        whole = abs(sum(phase.fraction for phase in self.phases) - 1) < 1e-6
        demand(self, whole, "the fractions of the phases must sum to 1")
        sizes = list(self.matryoshka_dimensions)
        if isinstance(self.backbone, Towers):
            fits = max([self.backbone.text.least_dimension, *sizes]) <= self.backbone.dimension
            demand(self, fits, "matryoshka_dimensions and word vectors must not exceed backbone.dimension")
        any_size = isinstance(self.backbone, Towers) and self.backbone.image.takes_any_size
        own_size = all(phase.image_size is None for phase in self.phases)
        demand(self, any_size or own_size, "phases.image_size is for an image tower of the kind residual")
        return self


class Negatives(Section):
    """Hard negatives: how many a query gets, from the nearest `depth` of what `model` finds; none without a model.

    A candidate that scores above `margin` times the positive's score is taken for a false negative. With
    `other_modalities`, what is of a modality for which a task never asks can be a negative too. The `reranker`, a
    CrossEncoder of sentence-transformers, scores what was mined for the loss `scores`.
    """

    model: str | None
    reranker: str | None
    per_query: Positive
    depth: Positive
    margin: Fraction
    other_modalities: bool

    @model_validator(mode="after")
    def _something_is_reranked(self) -> Self:
        mines = self.model is not None or self.reranker is None
        return demand(self, mines, "reranker scores what model mines, and model is null")


class TeacherEmbeddings(Section):
    """Whose vectors the student learns from: the teacher's, and those of `others`, directories or hub names.

    With `views`, every image is changed so many times, and the changes are stored beside the vectors of them.
    """

    others: list[str]
    views: Annotated[int, Field(ge=0)]
    augmentation: Fraction
    no_flip_tasks: list[str]
    seed: Seed
