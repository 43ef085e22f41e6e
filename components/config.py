"""`params.yaml`, parsed once into frozen models; an unknown key or an impossible value is an error that teaches."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import UsedWrongly

PARAMETERS = "params.yaml"
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


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


class Validation(Section):
    min_train_rows: Positive
    min_eval_sets: Positive
    min_image_side: Positive
    max_image_side: Positive
    max_aspect: Rate
    max_text_length: Positive
    max_duplicate_share: Share
    max_class_share: Share


class ImageTower(Section):
    """A small residual network: channels of its stages, and how many blocks each stage has."""

    image_size: Positive
    widths: list[Positive]
    depths: list[Positive]


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
    matryoshka_dimensions: list[Positive]
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


def read(path: Path) -> Config:
    """Returns the configuration. Raises `UsedWrongly` that names each wrong key, what was found, and a remedy."""
    if not path.is_file():
        raise UsedWrongly(f"{path}: missing", f"Run in a folder that has a {PARAMETERS}, such as a checkout of this project.")
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
        raise UsedWrongly("\n".join(_explain(origin, fault) for fault in error.errors()),
                          f"Mend {origin}; components/config.py says what each key may be.") from error


def _explain(origin: str, fault: Any) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(fault["loc"][-1]), _keys(fault["loc"][:-1]), n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        return f"{origin}: {place}: unknown key{suggestion}"
    if fault["type"] == "missing":
        return f"{origin}: {place}: is missing"
    message = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{origin}: {place}: {message}, got {fault['input']!r}"


def _keys(path: tuple[Any, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in path:
        annotation = section.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
