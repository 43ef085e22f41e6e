"""What `dvc.yaml` declares is what the stages depend on, no less and no more."""

from pathlib import Path

import pytest
import yaml

from components.config import Config, parse, read
from components.stages import STAGES, sections_of
from components.stages.inputs import covers, declare, declared, needed, undeclared

ROOT = Path(__file__).parents[1]
FOUND_BY_NAME = ("components/embedder/towers", "components/export/exporters")
"""Folders that are declared whole: a model directory may name any tower, and be of any class, that lies there."""


@pytest.fixture(scope="module")
def config() -> Config:
    return read(ROOT / "params.yaml")


def superfluous(name: str, deps: list[str], config: Config) -> list[str]:
    """Returns the code that a stage declares and does not depend on."""
    used = needed(name, config)
    code = [dependency for dependency in deps if dependency.startswith("components")]
    return [
        dependency
        for dependency in code
        if dependency not in used and not any(covers(dependency, folder) for folder in FOUND_BY_NAME)
    ]


def test_every_file_that_a_stage_depends_on_is_declared(config: Config) -> None:
    assert undeclared(ROOT, config) == {}


@pytest.mark.parametrize("name", STAGES)
def test_nothing_is_declared_that_cannot_change_the_output(name: str, config: Config) -> None:
    assert superfluous(name, declared(ROOT)[name], config) == []


@pytest.mark.parametrize("name", STAGES)
def test_the_parameters_of_a_stage_are_the_sections_that_it_is_given(name: str) -> None:
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"][name]
    assert sorted(stage["params"]) == sorted(sections_of(name))


def test_a_stage_that_reads_a_section_which_is_not_declared_fails(config: Config) -> None:
    from components.stages import only

    given = only({"serving": config.serving})
    assert given.serving == config.serving
    with pytest.raises(AttributeError):
        _ = given.promotion


@pytest.mark.parametrize(
    "path",
    ["components/backends/endpoint.py", "components/training/losses/structure.py", "components/corpus/ingest.py"],
)
def test_an_edit_of_what_no_stage_runs_repeats_no_stage(path: str) -> None:
    assert (ROOT / path).is_file()
    assert not any(covers(dependency, path) for deps in declared(ROOT).values() for dependency in deps)


def test_an_import_that_is_not_declared_is_found(source_copy: Path, config: Config) -> None:
    with (source_copy / "components/training/sampler.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom components.validation.page import render\n")
    missing = undeclared(source_copy, config)
    assert missing.keys() == {"teacher", "distill"}
    assert missing["teacher"] == ["components/validation/page.py"]


def test_a_declared_file_that_nothing_imports_any_longer_is_found(source_copy: Path, config: Config) -> None:
    chunks = source_copy / "components/training/recipe.py"
    text = chunks.read_text(encoding="utf-8")
    imported = "from components.training.chunks import in_chunks, require_independent_rows\n"
    assert imported in text
    chunks.write_text(text.replace(imported, ""), encoding="utf-8")
    assert superfluous("teacher", declared(source_copy)["teacher"], config) == ["components/training/chunks.py"]


def test_a_loss_is_declared_once_the_recipe_names_it(source_copy: Path, config: Config) -> None:
    before = (source_copy / "dvc.yaml").read_text(encoding="utf-8")
    assert declare(source_copy, config) == {} and (source_copy / "dvc.yaml").read_text(encoding="utf-8") == before
    content = config.model_dump()
    content["teacher"]["phases"][0]["losses"] = [{"name": "sigmoid"}]
    other = parse(content)
    assert declare(source_copy, other) == {"teacher": ["components/training/losses/sigmoid.py"]}
    after = (source_copy / "dvc.yaml").read_text(encoding="utf-8")
    added = [line for line in after.splitlines() if line not in before.splitlines()]
    assert added == ["      - components/training/losses/sigmoid.py"]
    assert len(after.splitlines()) == len(before.splitlines()) + 1, "the rest, comments included, is as it was"
    assert declare(source_copy, other) == {}
