import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from pydantic import ValidationError

from components import config as configuration
from components.config import parse, read, schema
from components.errors import UsageError
from components.export.config import Serving
from components.training import losses

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / configuration.PARAMETERS
Change = Callable[..., dict[str, Any]]
FP32 = {"name": "fp32", "parity_cosine": 0.5}
PRETRAINED_IMAGE = {"kind": "pretrained", "model": "a-tower", "image_size": 64}


@pytest.fixture
def changed() -> Change:
    """Makes the content of params.yaml with one key set, or without it."""

    def make(key: str, *value: Any) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(json.dumps(yaml.safe_load(PARAMS.read_text(encoding="utf-8"))))
        section: Any = content
        *path, last = key.split(".")
        for part in path:
            section = section[int(part) if part.isdigit() else part]
        if value:
            section[last] = value[0]
        else:
            del section[last]
        return content

    return make


def refusal(content: Any) -> str:
    with pytest.raises(UsageError) as raised:
        parse(content)
    assert raised.value.exit_code == 2 and raised.value.remedy
    return raised.value.problem


def test_the_shipped_file_is_a_configuration() -> None:
    config = read(PARAMS)
    assert config.corpus.source == "emoji" and config.teacher.schedule.seed == 0
    assert parse(config.model_dump()) == config
    assert len(config.corpus.trained_languages) + len(config.corpus.unseen_languages) == 10


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("teacher.schedule.learning_rat", "learning_rate"),
        ("teacher.backbone.image.width", "widths"),
        ("teacher.backbone.max_token", "max_tokens"),
        ("teacher.phases.0.lr_multiplier", "lr_multipliers"),
        ("teacher.negative_per_query", "negatives_per_query"),
        ("corpus.train_scene", "train_scenes"),
        ("servng", "serving"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key: str, near: str, changed: Change) -> None:
    assert refusal(changed(key, 1)) == f"params.yaml: {key}: unknown key; did you mean {near!r}?"


def test_an_unknown_key_that_is_near_to_none_gets_no_suggestion(changed: Change) -> None:
    assert refusal(changed("serving.zzz", 1)) == "params.yaml: serving.zzz: unknown key"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("teacher.schedule.steps", "many", "should be a valid integer"),
        ("teacher.schedule.steps", "700", "should be a valid integer"),
        ("teacher.schedule.steps", 7.5, "should be a valid integer"),
        ("corpus.licence", 3, "should be a valid string"),
        ("teacher.backbone.image.widths", 64, "should be a valid list"),
        ("validation", [1], "should be a valid dictionary"),
        ("teacher.schedule.steps", 0, "greater than 0"),
        ("teacher.schedule.batch_size", 1, "greater than or equal to 2"),
        ("teacher.phases.0.losses.0.weight", -0.02, "greater than 0"),
        ("teacher.phases.0.losses.0.weight", float("nan"), "finite"),
        ("teacher.phases.0.fraction", 0, "greater than 0"),
        ("teacher.schedule.learning_rate", float("nan"), "finite"),
        ("teacher.schedule.task_weights.Group", -1, "greater than or equal to 0"),
        ("corpus.eval_fraction", 1.2, "less than or equal to 1"),
        ("serving.http_port", 70000, "less than or equal to 65535"),
        ("corpus.source", "emojis", "'emoji'"),
        ("teacher.schedule.precision", "float16", "'bfloat16'"),
        ("teacher.schedule.seed", 2**31, "less than 2147483648"),
        ("teacher_embeddings.seed", -(2**40), "greater than or equal to -2147483648"),
        ("teacher.schedule.stop", "never", "'first_exhausted'"),
        ("teacher.schedule.distinct", "rows", "'positive'"),
        ("promotion.confidence", 1.0, "less than 1"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found(key: str, value: Any, said: str, changed: Change) -> None:
    problem = refusal(changed(key, value))
    assert problem.startswith(f"params.yaml: {key}: ") and said in problem and problem.endswith(f", got {value!r}")
    assert "\n" not in problem


def test_a_missing_key_is_named(changed: Change) -> None:
    assert refusal(changed("teacher.backbone.dimension")) == "params.yaml: teacher.backbone.dimension: is missing"
    assert refusal(changed("serving")) == "params.yaml: serving: is missing"


def test_a_source_has_the_keys_of_its_own_file(changed: Change) -> None:
    shared = {"name": "shop", "licence": "CC0-1.0"}
    table = parse(changed("corpus", {"source": "table", "location": "shop.csv", **shared})).corpus
    assert table.model_dump()["location"] == "shop.csv"
    for location in ({}, {"location": ""}):
        problem = refusal(changed("corpus", {"source": "table", **location, **shared}))
        assert problem.startswith("params.yaml: corpus.location: ")
    assert refusal(changed("corpus.location", "shop.csv")) == "params.yaml: corpus.location: unknown key"


def test_a_section_of_an_unknown_kind_is_answered_with_those_there_are(changed: Change) -> None:
    assert (
        refusal(changed("teacher.backbone.kind", "tower"))
        == "params.yaml: teacher.backbone.kind: should be 'towers', 'whole', got 'tower'"
    )
    assert refusal(changed("teacher.backbone.image.kind")) == "params.yaml: teacher.backbone.image.kind: is missing"


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "name",
            "contrastiv",
            "unknown loss 'contrastiv', did you mean 'contrastive'? (known: contrastive, relative, ",
        ),
        ("temprature", 1.0, "loss contrastive: temprature: unknown setting (known: temperature, learnt, "),
        ("temperature", 0, "loss contrastive: temperature: should be greater than 0, got 0"),
        ("learnt", "yes", "loss contrastive: learnt: should be a valid boolean, got 'yes'"),
    ],
)
def test_a_wrong_loss_or_setting_is_answered_with_the_known_ones(
    key: str, value: Any, said: str, changed: Change
) -> None:
    problem = refusal(changed(f"teacher.phases.0.losses.0.{key}", value))
    assert problem.startswith(f"params.yaml: teacher.phases.0.losses.0: {said}") and "\n" not in problem


def test_a_loss_without_what_it_needs_is_refused(changed: Change) -> None:
    assert "temperature: is missing" in refusal(changed("teacher.phases.0.losses.0.temperature"))
    assert "losses.0.name: is missing" in refusal(changed("teacher.phases.0.losses.0.name"))


def test_every_loss_can_be_named_in_a_recipe(changed: Change) -> None:
    settings = {"temperature": 0.1, "student_temperature": 0.1, "teacher_temperature": 0.1}
    for name in losses.names():
        accepted = importlib.import_module(f"components.training.losses.{name}").Settings.model_fields
        given = {key: value for key, value in settings.items() if key in accepted}
        term = {"name": name, "weight": 2.0, **given}
        found = parse(changed("distillation.phases.0.losses", [term])).distillation.phases[0].losses[0]
        assert (found.name, found.weight, found.settings) == (name, 2.0, given)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("teacher.phases.0.fraction", 0.5, "teacher: the fractions of the phases must sum to 1"),
        ("teacher.phases.0.losses", [], "teacher.phases.0.losses: List should have at least 1 item"),
        ("teacher.schedule.sub_batches", 200, "teacher.schedule: batch_size must be at least twice sub_batches"),
        ("teacher.backbone.image.depths", [1], "teacher.backbone.image: widths and depths must be of the same length"),
        ("distillation.matryoshka_dimensions", [768], "distillation: matryoshka_dimensions and word vectors must not"),
        ("distillation.backbone.text.width", 768, "distillation: matryoshka_dimensions and word vectors must not"),
        ("teacher.backbone.image", PRETRAINED_IMAGE, "teacher: phases.image_size is for an image tower of the kind"),
        ("teacher.negatives_per_query", 3, "negatives_per_query asks for 3, and negatives mines 0"),
        ("distillation.negatives_per_query", 5, "negatives_per_query asks for 5, and negatives mines 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(key: str, value: Any, said: str, changed: Change) -> None:
    assert refusal(changed(key, value)).startswith(f"params.yaml: {said}")


@pytest.mark.parametrize(("place", "variant"), [(0, "fp32"), (1, "int8")])
def test_every_variant_that_is_exported_can_be_served_and_has_its_parity_limit(
    place: int, variant: str, changed: Change
) -> None:
    assert parse(changed("serving.variant", variant)).serving.variant == variant
    said = f"params.yaml: export.variants.{place}.parity_cosine: is missing"
    assert refusal(changed(f"export.variants.{place}.parity_cosine")) == said
    said = f"params.yaml: export.variants.{place}.parity_cosin: unknown key; did you mean 'parity_cosine'?"
    assert refusal(changed(f"export.variants.{place}.parity_cosin", 0.5)) == said


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ([], "export.variants: List should have at least 1 item"),
        ([FP32], "serving.variant: 'int8' is not exported; export.variants has fp32"),
        ([FP32, FP32], "export: variants names one of them twice"),
        ([{"parity_cosine": 0.5}], "export.variants.0.name: is missing"),
        ([FP32 | {"name": "fp31"}], "export.variants.0.name: should be one of 'fp16', 'fp32', 'int4', 'int8', "),
        ([FP32 | {"calibration_images": 1}], "export.variants.0.calibration_images: unknown key"),
        ([FP32 | {"parity_cosine": 2.0}], "export.variants.0.parity_cosine: should be less than or equal to 1"),
    ],
)
def test_variants_that_are_none_and_one_that_is_not_exported_are_refused(
    variants: list[Any], said: str, changed: Change
) -> None:
    assert refusal(changed("export.variants", variants)).startswith(f"params.yaml: {said}")


def test_hard_negatives_that_are_mined_can_be_asked_for(changed: Change) -> None:
    content = changed("teacher.negatives_per_query", 4)
    content["negatives"] |= {"model": "artifacts/student", "per_query": 4}
    assert parse(content).teacher.negatives_per_query == 4
    content["negatives"]["per_query"] = 3
    assert "asks for 4, and negatives mines 3" in refusal(content)


def test_a_schedule_has_steps_or_epochs_and_not_both(changed: Change) -> None:
    content = changed("teacher.schedule.epochs", 3)
    assert refusal(content) == "params.yaml: teacher.schedule: needs one of steps and epochs, and not both"
    del content["teacher"]["schedule"]["steps"]
    assert parse(content).teacher.schedule.epochs == 3
    assert "needs one of steps and epochs" in refusal(changed("teacher.schedule.steps", None))


def test_every_wrong_key_is_named_at_once(changed: Change) -> None:
    content = changed("teacher.backbone.dimension", -1)
    content["corpus"]["nme"] = content["corpus"].pop("name")
    lines = refusal(content).splitlines()
    assert len(lines) == 3 and all(
        any(key in line for line in lines) for key in ("teacher.backbone.dimension", "corpus.nme", "corpus.name")
    )


def test_integers_are_taken_where_a_number_is_asked(changed: Change) -> None:
    assert parse(changed("teacher.schedule.learning_rate", 1)).teacher.schedule.learning_rate == 1.0


@pytest.mark.parametrize("content", [b"teacher: [1, 2", b"\xff\xfe\x00", b"a: b: c"])
def test_what_is_not_yaml_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is not YAML"):
        read(file)


@pytest.mark.parametrize("content", ["", "- teacher", "teacher"])
def test_what_holds_no_sections_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"params\.yaml: .*valid dictionary"):
        read(file)


def test_a_missing_file_is_named_and_where_to_find_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"params\.yaml: missing") as raised:
        read(tmp_path / "params.yaml")
    assert "params.yaml" in raised.value.remedy


def test_a_configuration_cannot_be_changed() -> None:
    config = read(PARAMS)
    for section, field, value in ((config, "serving", None), (config.teacher.schedule, "steps", 1)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, value)


def test_the_checked_in_schema_is_that_of_the_code_and_fits_the_file(changed: Change) -> None:
    written = json.loads((ROOT / "params.schema.json").read_text(encoding="utf-8"))
    assert written == schema(), "write it anew with `json.dumps(schema(), indent=2)`"
    jsonschema.validate(yaml.safe_load(PARAMS.read_text(encoding="utf-8")), written)
    for wrong in (changed("teacher.schedule.steps", 0), changed("servng", 1), changed("teacher.backbone.dimension")):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, written)


def test_one_section_is_read_whatever_the_others_say(tmp_path: Path, changed: Change) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed("teacher.phases", "nonsense")), encoding="utf-8")
    assert configuration.read_section(path, Serving) == read(PARAMS).serving
    assert configuration.read_section(path, configuration.Evaluation) == read(PARAMS).evaluation


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("serving.http_prt", 1, "params.yaml: serving.http_prt: unknown key; did you mean 'http_port'?"),
        ("serving.threads", 0, "params.yaml: serving.threads: should be greater than 0, got 0"),
        ("serving.grpc_port", 8000, "params.yaml: serving: two ports are the same; 0 takes any free one"),
    ],
)
def test_a_wrong_section_is_refused_as_in_the_whole_file(
    key: str, value: object, said: str, tmp_path: Path, changed: Change
) -> None:
    path = tmp_path / "params.yaml"
    content = changed(key, value)
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert refusal(content) == said
    with pytest.raises(UsageError) as raised:
        configuration.read_section(path, Serving)
    assert raised.value.problem == said


@pytest.mark.parametrize("text", ["", "serving:", "[1]", "corpus: {}"])
def test_a_section_that_is_not_there_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"^params\.yaml: "):
        configuration.read_section(path, Serving)


def test_the_recipes_can_be_left_unchecked_and_nothing_else(changed: Change, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed("teacher.phases.0.losses.0.name", "contrast")), encoding="utf-8")
    configuration.check_without_torch(path)
    with pytest.raises(UsageError, match="did you mean 'contrastive'"):
        read(path)
    path.write_text(yaml.safe_dump(changed("negatives.depth", -1)), encoding="utf-8")
    with pytest.raises(UsageError, match=r"negatives\.depth: should be greater than 0"):
        configuration.check_without_torch(path)


def test_a_variant_is_chosen_only_where_it_is_said_how_much_it_may_lose(changed: Change) -> None:
    content = changed("serving.variant", "auto")
    assert "auto needs export.max_score_loss" in refusal(content)
    content["export"]["max_score_loss"] = 0.01
    assert parse(content).serving.variant == "auto"
    content["export"]["variants"] = [variant for variant in content["export"]["variants"] if variant["name"] != "fp32"]
    assert "measured against fp32, which variants does not name" in refusal(content)


def test_a_provider_is_one_that_onnx_runtime_may_have(changed: Change) -> None:
    assert parse(changed("serving.variant", "int8")).serving.provider == "auto"
    assert parse(changed("serving.provider", "cuda")).serving.provider == "cuda"
    assert "serving.provider" in refusal(changed("serving.provider", "rocm"))
