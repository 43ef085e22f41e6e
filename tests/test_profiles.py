from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import config as configuration
from components.config import parse, read
from components.errors import UsageError
from components.profiles import BEFORE, MARK, apply_profile, overlay, profile_names, read_profile, restore_default

ROOT = Path(__file__).parents[1]
PARAMS = ROOT / configuration.PARAMETERS
FOLDER = ROOT / "profiles"
NAMES = profile_names(FOLDER)


@pytest.fixture
def parameters(tmp_path: Path) -> Path:
    """A copy of params.yaml, alone in a folder."""
    file = tmp_path / "work" / PARAMS.name
    file.parent.mkdir()
    file.write_bytes(PARAMS.read_bytes())
    return file


def written(folder: Path, content: str, name: str = "own") -> Path:
    (folder / f"{name}.yaml").write_text(content, encoding="utf-8")
    return folder


def test_there_is_a_profile_for_every_recipe_of_the_literature() -> None:
    recipes = ["clip", "jasper", "llave", "mobileclip", "projector", "rzenembed", "siglip", "vlm2vec", "xvlm2vec"]
    assert sorted(recipes) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_names_its_paper_and_makes_a_configuration(name: str, parameters: Path) -> None:
    before = read(parameters)
    profile = apply_profile(name, parameters, FOLDER)
    after = read(parameters)
    assert profile.name == name and profile.paper[-4:].isdigit() and " et al., " in profile.paper and profile.differs
    assert after != before and set(profile.changes) <= {"teacher", "teacher_embeddings", "distillation"}
    untouched = set(before.model_dump()) - set(profile.changes)
    assert all(getattr(after, section) == getattr(before, section) for section in untouched)
    assert sorted(file.name for file in parameters.parent.iterdir()) == [".embedline", "params.yaml"]
    assert parameters.read_text(encoding="utf-8").splitlines()[0] == MARK + name


@pytest.mark.parametrize("name", NAMES)
def test_all_that_a_profile_says_is_in_the_configuration_that_it_makes(name: str, parameters: Path) -> None:
    changes = apply_profile(name, parameters, FOLDER).changes

    def holds(found: Any, wanted: Any) -> bool:
        if isinstance(wanted, Mapping):
            return all(key in found and holds(found[key], value) for key, value in wanted.items())
        if isinstance(wanted, list):
            return len(found) == len(wanted) and all(map(holds, found, wanted))
        return bool(found == wanted)

    assert holds(read(parameters).model_dump(), changes)
    assert not holds(read(PARAMS).model_dump(), changes)


def test_a_profile_applied_twice_is_applied_once(parameters: Path) -> None:
    apply_profile("vlm2vec", parameters, FOLDER)
    once = parameters.read_bytes()
    apply_profile("vlm2vec", parameters, FOLDER)
    assert parameters.read_bytes() == once


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_the_overlay_of_plain_mappings(name: str, parameters: Path) -> None:
    """So what two sections share by an anchor or a merge is changed in one of them alone."""
    profile = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    del profile["paper"], profile["differs"]
    apply_profile(name, parameters, FOLDER)
    assert yaml.safe_load(parameters.read_text(encoding="utf-8")) == overlay(
        yaml.safe_load(PARAMS.read_text(encoding="utf-8")), profile
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_a_profile_does_not_change_keeps_its_lines(name: str, parameters: Path) -> None:
    apply_profile(name, parameters, FOLDER)
    before, after = PARAMS.read_text(encoding="utf-8"), parameters.read_text(encoding="utf-8")
    start, end = before.index("\nnegatives:"), before.index("\nexport:")
    assert after.startswith(MARK + name + "\n" + before[:start])
    assert after.endswith(before[end:])
    assert "  per_query: 4\n" in after and "  others: []                    # more models" in after


def test_comments_and_anchors_stay_beside_a_change_in_the_same_section(parameters: Path) -> None:
    apply_profile("mobileclip", parameters, FOLDER)
    lines = parameters.read_text(encoding="utf-8").splitlines()
    for line in (
        "  views: 2                      # stored changes of every image; 0: images as they are",
        "    image: &image_tower {kind: residual, image_size: 64, widths: [64, 128, 384], depths: [1, 2, 1]}",
        "      image_size: 32              # a quarter of the places: more than twice the steps in the same time",
        "    - <<: *small_images",
        "  schedule: &schedule",
        "    <<: *schedule",
        "    steps: 260",
    ):
        assert line in lines
    assert any("layers like the teacher's start as those" in line for line in lines)


@pytest.mark.parametrize(("first", "second"), [("vlm2vec", "jasper"), ("mobileclip", "projector"), ("clip", "siglip")])
def test_profiles_do_not_stack(first: str, second: str, parameters: Path) -> None:
    apply_profile(second, parameters, FOLDER)
    alone = parameters.read_bytes()
    parameters.write_bytes(PARAMS.read_bytes())
    apply_profile(first, parameters, FOLDER)
    assert parameters.read_bytes() != alone
    apply_profile(second, parameters, FOLDER)
    assert parameters.read_bytes() == alone


@pytest.mark.parametrize("name", NAMES)
def test_the_way_back_to_the_default_loses_no_byte(name: str, parameters: Path) -> None:
    untidy = PARAMS.read_bytes().replace(b"    kind: towers\n", b"    kind:    'towers'  \n")
    parameters.write_bytes(untidy)
    apply_profile("xvlm2vec", parameters, FOLDER)
    apply_profile(name, parameters, FOLDER)
    assert parameters.read_bytes() != untidy
    restore_default(parameters)
    assert parameters.read_bytes() == untidy and not (parameters.parent / BEFORE).exists()
    restore_default(parameters)
    assert parameters.read_bytes() == untidy, "there is nothing to go back from"


def test_what_was_edited_elsewhere_since_stays(parameters: Path) -> None:
    def edit() -> None:
        edited = parameters.read_text(encoding="utf-8").replace("http_port: 8000", "http_port: 9000  # mine")
        parameters.write_text(edited, encoding="utf-8")

    apply_profile("vlm2vec", parameters, FOLDER)
    edit()
    apply_profile("jasper", parameters, FOLDER)
    restore_default(parameters)
    after = parameters.read_bytes()
    parameters.write_bytes(PARAMS.read_bytes())
    edit()
    assert parameters.read_bytes() == after and b"9000  # mine" in after


def test_a_profile_whose_default_is_lost_is_not_taken_for_the_default(parameters: Path) -> None:
    apply_profile("vlm2vec", parameters, FOLDER)
    (parameters.parent / BEFORE).unlink()
    before = parameters.read_bytes()
    for change in (lambda: apply_profile("clip", parameters, FOLDER), lambda: restore_default(parameters)):
        with pytest.raises(UsageError, match=r"has the profile vlm2vec, and .* is missing") as raised:
            change()
        assert "git checkout params.yaml" in raised.value.remedy
    assert parameters.read_bytes() == before


def test_sections_that_cannot_be_distinguished_are_refused(parameters: Path) -> None:
    quoted = PARAMS.read_bytes().replace(b"\nteacher:", b'\n"teacher":')
    parameters.write_bytes(quoted)
    with pytest.raises(UsageError, match="no line starts with teacher:"):
        apply_profile("clip", parameters, FOLDER)
    assert parameters.read_bytes() == quoted


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": {"b": 1}}, {"a": None, "d": {}}, {"a": None, "d": {}}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"kind": "x", "b": 1}}, {"a": {"kind": "y"}}, {"a": {"kind": "y"}}),
        ({"a": {"kind": "x", "b": 1}}, {"a": {"kind": "x", "c": 2}}, {"a": {"kind": "x", "b": 1, "c": 2}}),
        ({"a": {"kind": "x", "b": 1}}, {"a": {"c": 2}}, {"a": {"kind": "x", "b": 1, "c": 2}}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": {"epochs": 9, "b": 1}}, {"a": {"steps": 3}}, {"a": {"epochs": None, "steps": 3, "b": 1}}),
        ({"a": {"steps": 9}}, {"a": {"epochs": 3}}, {"a": {"steps": None, "epochs": 3}}),
        ({"a": {"steps": 9}}, {"a": {"steps": 3}}, {"a": {"steps": 3}}),
        ({"a": {"steps": 9}}, {"a": {"steps": 3, "epochs": 4}}, {"a": {"steps": 3, "epochs": 4}}),
    ],
)
def test_mappings_are_joined_and_all_else_is_replaced(
    base: dict[str, Any], changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = repr(base)
    assert overlay(base, changes) == expected
    assert repr(base) == before, "what is changed is a copy"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("paper: P, 2020\ndiffers: nothing\nteacher: {schedule: {stepz: 3}}", "did you mean 'steps'?"),
        ("paper: P, 2020\ndiffers: nothing\nteecher: {}", "did you mean 'teacher'?"),
        (
            "paper: P, 2020\ndiffers: nothing\nteacher: {phases: [{losses: [{name: contrast}]}]}",
            "unknown loss 'contrast'",
        ),
        ("paper: P, 2020\ndiffers: nothing\nserving: {threads: 3}", "own: a profile cannot change serving"),
        ("differs: nothing\nteacher: {}", "is no profile: 'paper'"),
        ("paper: P, 2020\nteacher: {}", "is no profile: 'differs'"),
        ("- paper", "is no profile"),
        ("paper: [", "is no profile"),
        ("", "is no profile"),
    ],
)
def test_a_profile_that_makes_no_configuration_changes_nothing(
    content: str, said: str, parameters: Path, tmp_path: Path
) -> None:
    before = parameters.read_bytes()
    with pytest.raises(UsageError) as raised:
        apply_profile("own", parameters, written(tmp_path, content))
    assert said in raised.value.problem and raised.value.exit_code == 2 and raised.value.remedy
    assert parameters.read_bytes() == before
    assert [file.name for file in parameters.parent.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(("content", "said"), [(b"a: [", "is not YAML"), (b"- 1", "dictionary"), (None, "missing")])
def test_parameters_that_are_none_are_refused(
    content: bytes | None, said: str, parameters: Path, tmp_path: Path
) -> None:
    parameters.unlink() if content is None else parameters.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        apply_profile("clip", parameters, FOLDER)
    assert not parameters.exists() if content is None else parameters.read_bytes() == content


def test_an_unknown_profile_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such profile") as raised:
        read_profile("vlmvec", FOLDER)
    assert all(name in raised.value.remedy for name in NAMES)
    with pytest.raises(UsageError) as raised:
        read_profile("clip", tmp_path)
    assert raised.value.remedy == "The profiles are: none."


def test_a_profile_of_ones_own_is_found(parameters: Path, tmp_path: Path) -> None:
    folder = written(tmp_path, "paper: P, 2020\ndiffers: nothing\nteacher: {schedule: {steps: 7}}")
    assert profile_names(folder) == ["own"]
    apply_profile("own", parameters, folder)
    expected = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    expected["teacher"]["schedule"] = expected["teacher"]["schedule"] | {"steps": 7}
    assert read(parameters) == parse(expected)
