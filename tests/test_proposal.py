"""`embedline init` on tables, folders, data sets and tars: what it finds, proposes, writes and refuses."""

import csv
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from components.config import read
from components.corpus.inspect import name_of, source_at
from components.errors import DataInvalid, UsageError
from components.profiles import apply_profile, profile_names, restore_default
from components.proposal import batch_size_of, look_at, margin_of, parameters
from components.scores.intervals import difference_interval

PAIRS = 90
Pairs = list[tuple[str, bytes, str]]


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    found = []
    for number in range(PAIRS):
        noise = np.random.default_rng(number).integers(0, 256, (5, 5, 3), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).resize((12, 20 + number), Image.Resampling.BICUBIC).save(stream, "PNG")
        found.append((f"{number}.png", stream.getvalue(), f"thing number {number}"))
    return found


@pytest.fixture
def made(tmp_path: Path, pairs: Pairs) -> Callable[[str], Path]:
    """Makes the pairs as one kind of source, with columns that mean nothing besides."""
    folder = tmp_path / "My things"
    folder.mkdir()

    def make(kind: str) -> Path:
        rows = [{"id": number, "photo": name, "title": text} for number, (name, _, text) in enumerate(pairs)]
        if kind in ("csv", "jsonl", "folder"):
            for name, content, text in pairs:
                (folder / name).write_bytes(content)
                if kind == "folder":
                    (folder / name).with_suffix(".txt").write_text(f"{text}\nde=etwas")
        if kind == "csv":
            with (folder / "pairs.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif kind == "jsonl":
            (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        elif kind == "parquet":
            held = [
                row | {"photo": {"bytes": content, "path": None}}
                for row, (_, content, _) in zip(rows, pairs, strict=True)
            ]
            pq.write_table(pa.Table.from_pylist(held), folder / "0.parquet")
        elif kind == "tar":
            with tarfile.open(folder / "things.tar", "w") as tar:
                for name, content, text in pairs:
                    for file, part in ((name, content), (name.replace("png", "txt"), text.encode())):
                        member = tarfile.TarInfo(file)
                        member.size = len(part)
                        tar.addfile(member, io.BytesIO(part))
        return {"csv": folder / "pairs.csv", "jsonl": folder / "pairs.jsonl", "tar": folder / "things.tar"}.get(
            kind, folder
        )

    return make


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the present one."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def init(*arguments: object) -> Any:
    """Returns what `embedline init --json` says; an error is raised as it is."""
    ended = CliRunner().invoke(app, ["init", *map(str, arguments), "--json"], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("kind", "source", "name"),
    [
        ("csv", "table", "pairs"),
        ("jsonl", "table", "pairs"),
        ("parquet", "dataset", "my_things"),
        ("folder", "folder", "my_things"),
        ("tar", "webdataset", "things"),
    ],
)
def test_every_source_gets_a_configuration_that_fits_it(
    kind: str, source: str, name: str, made: Callable[[str], Path], workspace: Path
) -> None:
    location = made(kind)
    said = init(location)
    config = read(workspace / "params.yaml")
    left_out: dict[str, Any] = {"additions": ["incoming", "feedback"]} | ({} if source == "folder" else {"columns": {}})
    assert config.corpus.model_dump() == left_out | said["corpus"]
    assert (config.corpus.source, config.corpus.name, said["corpus"]["location"]) == (source, name, str(location))
    if source in ("table", "dataset"):
        assert said["corpus"]["columns"] == {"image": "photo", "text": "title"}
    assert said["train"].keys() == said["eval"].keys() == {f"{name}_t2i", f"{name}_i2t"}
    assert said["pairs"] + said["eval"][f"{name}_t2i"] + said["dev"][f"{name}_t2i"] == said["images"] == PAIRS
    assert (said["shortest_side"], said["longest_side"], said["quarantined"]) == (12, 20 + PAIRS - 1, 0)
    assert len(said["shown"]) == 5 and list(said["scripts"]) == ["Latin"]
    assert config.validation.min_eval_sets == 2 and config.validation.min_image_side == 12
    for recipe in (config.teacher, config.distillation):
        assert recipe.schedule.task_weights == {} and recipe.schedule.steps is None and recipe.schedule.epochs
        assert recipe.schedule.batch_size <= said["pairs"] / 3 and recipe.early_stopping
    assert {"params.yaml", "dvc.yaml", "components"} <= set(said["written"])
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text())["stages"]
    code = {path for each in stages.values() for path in each["deps"] if path.startswith("components")}
    assert code and all((workspace / path).exists() for path in code), "DVC finds what the stages depend on"


def test_another_params_yaml_is_replaced_only_by_force_and_kept(made: Callable[[str], Path], workspace: Path) -> None:
    (workspace / "params.yaml").write_text("mine: 1\n")
    location = made("folder")
    with pytest.raises(UsageError, match=r"params\.yaml is there already"):
        init(location)
    assert [file.name for file in workspace.iterdir()] == ["params.yaml"]
    assert (workspace / "params.yaml").read_text() == "mine: 1\n"
    init(location, "--force")
    assert (workspace / "params.yaml.before-init").read_text() == "mine: 1\n"
    assert read(workspace / "params.yaml").corpus.name == "my_things"
    assert init(location)["written"] == ["params.yaml"], "the same content is no other"
    written = (workspace / "params.yaml").read_text()
    (workspace / "params.yaml").write_text(f"# mine again\n{written}")
    assert init(location, "--force")["written"][0] == "params.yaml.before-init-2"
    assert (workspace / "params.yaml.before-init").read_text() == "mine: 1\n", "what was there first is kept too"
    assert (workspace / "params.yaml.before-init-2").read_text() == f"# mine again\n{written}"
    assert (workspace / "params.yaml").read_text() == written
    with pytest.raises(UsageError, match="already"):
        init(location, "--name", "another")


def test_every_profile_fits_what_init_writes(made: Callable[[str], Path], workspace: Path) -> None:
    """Steps in place of epochs, and no other key of the recipe lost; `default` goes back to the byte."""
    init(made("folder"))
    written = (workspace / "params.yaml").read_bytes()
    counted = set()
    for name in profile_names():
        profile = apply_profile(name)
        config = read(workspace / "params.yaml")
        for section in ("teacher", "distillation"):
            if steps := profile.changes.get(section, {}).get("schedule", {}).get("steps"):
                schedule = getattr(config, section).schedule
                assert (schedule.steps, schedule.epochs) == (steps, None)
                counted.add(section)
        restore_default()
        assert (workspace / "params.yaml").read_bytes() == written
    assert counted == {"teacher", "distillation"}


def test_columns_are_chosen_or_named_and_a_wrong_one_is_named(made: Callable[[str], Path], workspace: Path) -> None:
    location = made("jsonl")
    assert init(location, "--text-column", "title", "--name", "x")["corpus"]["name"] == "x"
    with pytest.raises(UsageError, match="no column 'words'") as refused:
        source_at(location, text="words")
    assert "id, photo, title" in refused.value.remedy and "--text-column" in refused.value.remedy
    with pytest.raises(UsageError, match="--name a/b"):
        init(location, "--name", "a/b")
    (location.parent / "texts.jsonl").write_text('{"a": "b", "c": "d"}\n')
    with pytest.raises(UsageError, match="looks like the image"):
        source_at(location.parent / "texts.jsonl")


def test_what_no_source_reads_is_refused(tmp_path: Path, made: Callable[[str], Path]) -> None:
    (tmp_path / "a.xlsx").touch()
    (tmp_path / "empty").mkdir()
    for location, said in (("a.xlsx", "neither"), ("none", "does not exist"), ("empty", "holds no images")):
        with pytest.raises(UsageError, match=said):
            source_at(tmp_path / location)
    broken = made("jsonl")
    for file in list(broken.parent.glob("*.png"))[:70]:
        file.unlink()
    with pytest.raises(DataInvalid, match="missing image"):
        look_at(source_at(broken), "x")
    few = tmp_path / "few"
    few.mkdir()
    made("folder")
    for name in ("1.png", "1.txt"):
        (few / name).write_bytes((broken.parent / name).read_bytes())
    with pytest.raises(DataInvalid, match="too few"):
        look_at(source_at(few), "x")


def test_subfolders_without_texts_are_labels(tmp_path: Path, pairs: Pairs, workspace: Path) -> None:
    for number, (name, content, _) in enumerate(pairs):
        folder = tmp_path / "animals" / ("cat", "polar_bear")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    said = init(tmp_path / "animals")
    assert said["eval"].keys() == {"animals_label"} and {text for _, text in said["shown"]} <= {"cat", "polar bear"}
    assert read(workspace / "params.yaml").validation.min_eval_sets == 1
    assert said["chance"] == pytest.approx(0.5)


def test_other_names_and_odd_values_still_make_a_configuration(made: Callable[[str], Path], workspace: Path) -> None:
    location = made("folder")
    facts = look_at(source_at(location), 'a "quoted": name')
    assert yaml.safe_load(parameters(facts))["corpus"]["name"] == 'a "quoted": name'
    assert name_of(Path("/x/Mine & Yours (2).csv")) == "mine_yours_2_csv"


@pytest.mark.parametrize("queries", [[40], [40, 36], [300, 300], [5000]])
def test_an_equal_model_passes_with_the_margin_and_a_clearly_worse_one_does_not(queries: list[int]) -> None:
    margin = margin_of(queries)
    equal = [np.array([1, -1] * max(1, count // 20) + [0] * (count - 2 * max(1, count // 20))) for count in queries]
    worse = [np.array([-1.0] * int(2 * margin * count + 1) + [0.0] * (count - int(2 * margin * count + 1)))
             for count in queries]  # fmt: skip
    assert difference_interval([each.astype(float) for each in equal], 0.9)[0] >= -margin
    assert difference_interval(worse, 0.9)[0] < -margin
    assert margin_of([40]) > 0.1 > margin_of([2000])


def test_a_batch_is_a_third_of_the_pairs_at_most() -> None:
    assert [batch_size_of(pairs) for pairs in (5, 30, 97, 549, 10**7)] == [4, 8, 32, 128, 256]
