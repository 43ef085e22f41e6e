"""`params.yaml`, parsed once into frozen models; an unknown key or an impossible value is an error that teaches."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, create_model, model_validator

from components.errors import UsedWrongly

PARAMETERS = "params.yaml"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Model = TypeVar("Model", bound=BaseModel)
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class EmojiCorpus(Section):
    """How the emoji corpus is built: languages by CLDR code, shares of concepts, numbers of composed scenes."""

    trained_languages: list[str]
    unseen_languages: list[str]
    withheld_share: Share
    train_scenes: Positive
    dev_scenes: Positive
    eval_scenes: Positive
    picture_size: Positive
    scene_size: Positive


class Corpus(Section):
    """Where the data come from, and how much of it may be broken before the ingest fails."""

    source: Literal["emoji", "mmeb", "dataset", "table", "webdataset"]
    name: str
    location: str | None
    columns: dict[str, str]
    licence: str
    seed: int
    quarantine_limit: Share
    dev_share: Share
    eval_share: Share
    emoji: EmojiCorpus

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        return demand(self, self.dev_share + self.eval_share < 1, "dev_share and eval_share together must be below 1")


class Validation(Section):
    min_train_rows: Positive
    min_eval_sets: Positive
    min_image_side: Positive
    max_image_side: Positive
    max_aspect: Rate
    max_text_length: Positive
    max_duplicate_share: Share
    max_class_share: Share

    @model_validator(mode="after")
    def _admits_some_image(self) -> Self:
        return demand(self, self.min_image_side <= self.max_image_side, "min_image_side is above max_image_side")


class PretrainedText(Section):
    """A transformers text encoder, mean-pooled: a directory, a name on the hub, or a package that carries it."""

    kind: Literal["pretrained"]
    model: str


class WordVectors(Section):
    """One vector for each token of a tokenizer, no context. A student's start as its teacher's vectors of them."""

    kind: Literal["word_vectors"]
    tokenizer: str
    width: Positive


class ResidualImage(Section):
    """A small residual network: channels of its stages, and how many blocks each stage has."""

    kind: Literal["residual"]
    image_size: Positive
    widths: Annotated[list[Positive], Field(min_length=1)]
    depths: list[Positive]

    @model_validator(mode="after")
    def _has_as_many_depths_as_widths(self) -> Self:
        return demand(self, len(self.widths) == len(self.depths), "widths and depths must be of the same length")


class PretrainedImage(Section):
    """A transformers image encoder, by what it pools: a directory, or a name on the hub."""

    kind: Literal["pretrained"]
    model: str
    image_size: Positive


class Towers(Section):
    """A dual encoder: two towers, projected to one space; an item of several parts is the sum of their vectors."""

    kind: Literal["towers"]
    text: Annotated[PretrainedText | WordVectors, Field(discriminator="kind")]
    image: Annotated[ResidualImage | PretrainedImage, Field(discriminator="kind")]
    dimension: Positive
    max_tokens: Positive
    instruction_weight: Annotated[float, Field(ge=0)]


class Whole(Section):
    """A model that sentence-transformers loads whole: CLIP, SigLIP, a vision-language model.

    `model` is a directory, a name on the hub, or `random:ARCHITECTURE`, a tiny one for trying a recipe out.
    """

    kind: Literal["whole"]
    model: str
    pooling: Literal["lasttoken", "mean", "cls"] | None = None
    gradient_checkpointing: bool = False


class LossTerm(BaseModel):
    """One loss by the name of its file in `components/training/losses`, its weight, and the settings of that file."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)
    name: str
    weight: Rate = 1.0

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _is_a_loss(self, info: ValidationInfo) -> Self:
        if info.context and not info.context["losses"]:
            return self
        from components.training.losses import check  # torch takes seconds, and few commands read the configuration

        check(self.name, self.settings)
        return self


class Phase(Section):
    """A part of a training: what is minimised, which parameters learn how fast, for which share of the steps.

    `rates` holds shares of the learning rate by a part of the parameters' names; 0 freezes them, others have 1.
    Pictures are shown at `image_size` (none: the tower's own): many small ones, then fewer large ones, teach more in
    the same time (Li et al., An Inverse Scaling Law for CLIP Training, 2023).
    """

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    image_size: Positive | None = None
    rates: dict[str, Annotated[float, Field(ge=0)]] = {}
    losses: Annotated[list[LossTerm], Field(min_length=1)]


class Schedule(Section):
    """How long, how fast, on what, on how many pairs at once.

    A step draws `sub_batches` tasks by weight (1 where none is given), or first by modality and then by weight.
    `distinct` rows of a sub-batch share no query, no positive, or neither. Pictures of `unmirrored_tasks`, where
    answers depend on left and right, are never mirrored. With `companions`, pairs of a bare text and a drawn picture
    join; `chunk` rows are computed at a time (0: all).
    """

    steps: Positive
    stop: Literal["steps", "first_exhausted", "all_exhausted"] = "steps"
    batch_size: Annotated[int, Field(ge=2)]
    sub_batches: Positive
    task_weights: dict[str, Annotated[float, Field(ge=0)]]
    balance: Literal["weights", "modalities"] = "weights"
    distinct: Literal["none", "query", "positive", "both"] = "none"
    companions: bool = True
    augmentation: Share
    unmirrored_tasks: list[str]
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_share: Share
    precision: Literal["float32", "bfloat16"]
    chunk: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Positive
    log_every: Positive
    seed: Seed

    @model_validator(mode="after")
    def _has_negatives(self) -> Self:
        enough = self.batch_size >= 2 * self.sub_batches
        return demand(self, enough, "batch_size must be at least twice sub_batches, or a sub-batch has no negatives")


class Adapter(Section):
    """Low-rank changes of the layers whose names end in one of `targets` (none: every linear layer), merged at save."""

    kind: Literal["lora", "dora"]
    rank: Positive
    alpha: Rate
    dropout: Share
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
    matryoshka_dimensions: list[Positive] = []
    adapter: Adapter | None = None
    early_stopping: EarlyStopping | None = None
    negatives_per_query: Annotated[int, Field(ge=0)] = 0
    processes: Positive = 1
    schedule: Schedule

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        whole = abs(sum(phase.share for phase in self.phases) - 1) < 1e-6
        demand(self, whole, "the shares of the phases must sum to 1")
        sizes = list(self.matryoshka_dimensions)
        if isinstance(self.backbone, Towers):
            sizes += [self.backbone.text.width] if isinstance(self.backbone.text, WordVectors) else []
            fits = max([0, *sizes]) <= self.backbone.dimension
            demand(self, fits, "matryoshka_dimensions and word vectors must not exceed backbone.dimension")
        any_size = isinstance(self.backbone, Towers) and isinstance(self.backbone.image, ResidualImage)
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
    margin: Share
    other_modalities: bool

    @model_validator(mode="after")
    def _something_is_reranked(self) -> Self:
        mines = self.model is not None or self.reranker is None
        return demand(self, mines, "reranker scores what model mines, and model is null")


class TeacherEmbeddings(Section):
    """Whose vectors the student learns from: the teacher's, and those of `others`, directories or hub names.

    With `views`, every picture is changed so many times, and the changes are stored beside the vectors of them.
    """

    others: list[str]
    views: Annotated[int, Field(ge=0)]
    augmentation: Share
    unmirrored_tasks: list[str]
    seed: Seed


class Export(Section):
    opset: Annotated[int, Field(ge=18, le=20)]
    parity_cosine: dict[Literal["fp32", "int8"], Share]
    parity_items: Positive


class Evaluation(Section):
    batch_size: Positive
    bootstrap_samples: Positive


class Serving(Section):
    variant: Literal["fp32", "int8"]
    http_port: Port
    grpc_port: Port
    metrics_port: Port
    threads: Positive
    max_batch_size: Positive
    startup_seconds: Positive

    @model_validator(mode="after")
    def _has_a_port_for_each(self) -> Self:
        ports = [port for port in (self.http_port, self.grpc_port, self.metrics_port) if port]
        return demand(self, len(ports) == len(set(ports)), "two ports are the same; 0 takes any free one")


class Promotion(Section):
    floors: dict[str, Share]
    margin: Share
    max_task_drop: Share
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    max_tie_rate: Share
    min_parity_cosine: Share
    bootstrap_samples: Positive


class Config(Section):
    corpus: Corpus
    validation: Validation
    negatives: Negatives
    teacher: Recipe
    teacher_embeddings: TeacherEmbeddings
    distillation: Recipe
    export: Export
    evaluation: Evaluation
    serving: Serving
    promotion: Promotion

    @model_validator(mode="after")
    def _student_is_a_dual_encoder(self) -> Self:
        fits = isinstance(self.distillation.backbone, Towers)
        return demand(self, fits, "distillation.backbone: what is exported is a dual encoder: kind must be towers")

    @model_validator(mode="after")
    def _negatives_are_mined(self) -> Self:
        asked = max(self.teacher.negatives_per_query, self.distillation.negatives_per_query)
        there = self.negatives.per_query if self.negatives.model else 0
        return demand(self, asked <= there, f"negatives_per_query asks for {asked}, and negatives mines {there}")


def demand(model: Model, holds: bool, otherwise: str) -> Model:
    """Returns the model if what it must be like holds; raises `ValueError`, which pydantic reports, if not."""
    if not holds:
        raise ValueError(otherwise)
    return model


def read(path: Path, losses: bool = True) -> Config:
    """Returns the configuration. Raises `UsedWrongly` that names each wrong key, what was found, and a remedy.

    Without `losses` their names and settings are not checked, which imports torch and takes seconds.
    """
    return parse(_load(path), path.name, losses)


def read_section(path: Path, kind: type[Model]) -> Model:
    """Returns one section, such as `Serving`, and looks at no other; raises as `read` does."""
    name = next(name for name, field in Config.model_fields.items() if field.annotation is kind)
    alone = create_model("Alone", **{name: (kind, ...)})  # type: ignore[call-overload]
    section: Model = getattr(_validated(alone, _load(path), path.name), name)
    return section


def parse(content: Any, origin: str = PARAMETERS, losses: bool = True) -> Config:
    """Returns the configuration in a mapping; raises as `read` does."""
    return _validated(Config, content, origin, losses)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UsedWrongly(
            f"{path}: missing", f"Run in a folder that has a {PARAMETERS}, such as a checkout of this project."
        )
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsedWrongly(f"{path}: is not YAML: {error}", "Correct the line that the message names.") from error


def _validated(kind: type[Model], content: Any, origin: str, losses: bool = True) -> Model:
    try:
        return kind.model_validate(content, context={"losses": losses})
    except ValidationError as error:
        raise UsedWrongly(
            "\n".join(_explain(origin, fault) for fault in error.errors()),
            f"Mend {origin}; components/config.py says what each key may be.",
        ) from error


def schema() -> dict[str, Any]:
    """Returns the JSON schema of `params.yaml`, which `params.schema.json` holds for editors."""
    return Config.model_json_schema()


def _explain(origin: str, fault: Any) -> str:
    keys, known = _place(fault["loc"])
    place = ".".join(keys)
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(keys[-1], known, n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        return f"{origin}: {place}: unknown key{suggestion}"
    if fault["type"] == "missing":
        return f"{origin}: {place}: is missing"
    if fault["type"] == "union_tag_not_found":
        return f"{origin}: {place}.kind: is missing"
    if fault["type"] == "union_tag_invalid":
        return f"{origin}: {place}.kind: should be {fault['ctx']['expected_tags']}, got {fault['ctx']['tag']!r}"
    if fault["type"] == "value_error":
        return ": ".join(part for part in (origin, place, fault["msg"].removeprefix("Value error, ")) if part)
    return (
        ": ".join(part for part in (origin, place, fault["msg"].removeprefix("Input ")) if part)
        + f", got {fault['input']!r}"
    )


def _place(location: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """Returns the keys that lead to a place in the file, and those that there may be beside the last one.

    pydantic also names the kind of a section that comes in several kinds, which is no key.
    """
    place: list[str] = []
    known: list[str] = []
    within: Any = Config
    for part in location:
        sections = [one for one in (within, *get_args(within)) if isinstance(one, type) and issubclass(one, BaseModel)]
        of_kind = [
            one for one in sections if part in get_args(getattr(one.model_fields.get("kind"), "annotation", None))
        ]
        if of_kind:
            within = of_kind[0]
            continue
        place.append(str(part))
        if get_origin(within) in (list, dict) or not sections:
            known, within = [], (get_args(within) or (None,))[-1]
        else:
            known = list(sections[0].model_fields)
            within = sections[0].model_fields[part].annotation if part in known else None
    return place, known
