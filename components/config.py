"""`params.yaml`, parsed once into frozen models; an unknown key or an impossible value is an error that teaches."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import UsedWrongly

PARAMETERS = "params.yaml"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
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


class ImageTower(Section):
    """A small residual network: channels of its stages, and how many blocks each stage has."""

    image_size: Positive
    widths: Annotated[list[Positive], Field(min_length=1)]
    depths: list[Positive]

    @model_validator(mode="after")
    def _has_as_many_depths_as_widths(self) -> Self:
        return demand(self, len(self.widths) == len(self.depths), "widths and depths must be of the same length")


class Schedule(Section):
    """How long, how fast, on what, on how many pairs at once.

    A step draws `sub_batches` tasks by weight (1 where none is given). Pictures of `unmirrored_tasks`, whose answers
    depend on left and right, are never mirrored.
    """

    steps: Positive
    batch_size: Annotated[int, Field(ge=2)]
    sub_batches: Positive
    task_weights: dict[str, Annotated[float, Field(ge=0)]]
    augmentation: Share
    unmirrored_tasks: list[str]
    learning_rate: Rate
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_share: Share
    temperature: Rate
    precision: Literal["float32", "bfloat16"]
    checkpoint_every: Positive
    log_every: Positive
    seed: int

    @model_validator(mode="after")
    def _has_negatives(self) -> Self:
        enough = self.batch_size >= 2 * self.sub_batches
        return demand(self, enough, "batch_size must be at least twice sub_batches, or a sub-batch has no negatives")


class Teacher(Section):
    text_model: str
    max_tokens: Positive
    instruction_weight: Annotated[float, Field(ge=0)]
    dimension: Positive
    image_tower: ImageTower
    schedule: Schedule


class Distillation(Section):
    """The student, and how much each of its losses counts; `matryoshka_dimensions` are learnt as prefixes."""

    text_dimension: Positive
    image_tower: ImageTower
    schedule: Schedule
    matryoshka_dimensions: Annotated[list[Positive], Field(min_length=1)]
    vector_weight: Annotated[float, Field(ge=0)]
    similarity_weight: Annotated[float, Field(ge=0)]
    label_weight: Annotated[float, Field(ge=0)]
    similarity_temperature: Rate


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
    teacher: Teacher
    distillation: Distillation
    export: Export
    evaluation: Evaluation
    serving: Serving
    promotion: Promotion

    @model_validator(mode="after")
    def _student_fits_the_teacher(self) -> Self:
        largest = max(*self.distillation.matryoshka_dimensions, self.distillation.text_dimension)
        return demand(
            self,
            largest <= self.teacher.dimension,
            "distillation: matryoshka_dimensions and text_dimension must not exceed teacher.dimension",
        )


def demand(model: Model, holds: bool, otherwise: str) -> Model:
    """Returns the model if what it must be like holds; raises `ValueError`, which pydantic reports, if not."""
    if not holds:
        raise ValueError(otherwise)
    return model


def read(path: Path) -> Config:
    """Returns the configuration. Raises `UsedWrongly` that names each wrong key, what was found, and a remedy."""
    if not path.is_file():
        raise UsedWrongly(
            f"{path}: missing", f"Run in a folder that has a {PARAMETERS}, such as a checkout of this project."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsedWrongly(f"{path}: is not YAML: {error}", "Mend the line that the message names.") from error
    return parse(content, path.name)


def parse(content: Any, origin: str = PARAMETERS) -> Config:
    """Returns the configuration in a mapping; raises as `read` does."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise UsedWrongly(
            "\n".join(_explain(origin, fault) for fault in error.errors()),
            f"Mend {origin}; components/config.py says what each key may be.",
        ) from error


def schema() -> dict[str, Any]:
    """Returns the JSON schema of `params.yaml`, which `params.schema.json` holds for editors."""
    return Config.model_json_schema()


def _explain(origin: str, fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(fault["loc"][-1]), _keys(fault["loc"][:-1]), n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        return f"{origin}: {place}: unknown key{suggestion}"
    if fault["type"] == "missing":
        return f"{origin}: {place}: is missing"
    if fault["type"] == "value_error":
        return ": ".join(part for part in (origin, place, fault["msg"].removeprefix("Value error, ")) if part)
    return (
        ": ".join(part for part in (origin, place, fault["msg"].removeprefix("Input ")) if part)
        + f", got {fault['input']!r}"
    )


def _keys(path: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
