import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.errors import UsageError
from components.training import losses
from components.training.config import LossTerm
from components.training.losses import Loss, SubBatch, build, check, names

MakeBatch = Callable[..., SubBatch]
SETTINGS: dict[str, dict[str, object]] = {
    "contrastive": {"temperature": 0.1, "learnt": True, "false_negative_margin": 0.1},
    "scores": {"student_temperature": 0.2, "teacher_temperature": 0.1},
    "similarities": {"student_temperature": 0.2, "teacher_temperature": 0.1},
}
ALL = pytest.mark.parametrize("name", names())


def of_name(name: str, teachers: Sequence[int]) -> Loss:
    torch.manual_seed(0)
    return build(name, SETTINGS.get(name, {}), 8, teachers).double()


def test_every_file_is_a_loss() -> None:
    files = sorted(path.stem for path in Path(losses.__file__).parent.glob("*.py") if path.stem != "__init__")
    assert names() == files and "contrastive" in names()


@ALL
def test_every_loss_has_the_gradient_of_its_value(make_batch: MakeBatch, name: str) -> None:
    batch = make_batch(rows=4, negatives=1, teachers=[8, 8])
    loss = of_name(name, [8, 8])
    assert batch.negatives is not None

    def value(queries: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        result: Tensor = loss(replace(batch, queries=queries, positives=positives, negatives=negatives))
        return result

    assert value(batch.queries, batch.positives, batch.negatives).shape == ()
    assert torch.autograd.gradcheck(value, (batch.queries, batch.positives, batch.negatives))


@ALL
def test_the_order_of_rows_does_not_matter(make_batch: MakeBatch, name: str) -> None:
    batch = make_batch(negatives=2, teachers=[8])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    equal = batch.equal.clone()
    equal[0, 4] = equal[4, 0] = True
    batch = replace(batch, equal=equal)

    def turned(side: Tensor | None) -> Tensor | None:
        return None if side is None else side[order]

    def change(side: object) -> dict[str, Tensor | None]:
        return {part: turned(getattr(side, part)) for part in ("queries", "positives", "negatives")}

    other = replace(
        batch,
        **change(batch),  # type: ignore[arg-type]
        equal=equal[order][:, order],
        teachers=tuple(replace(teacher, **change(teacher)) for teacher in batch.teachers),  # type: ignore[arg-type]
    )
    loss = of_name(name, [8])
    assert loss(other).item() == pytest.approx(loss(batch).item(), rel=1e-12)


@ALL
def test_float32_is_enough(make_batch: MakeBatch, name: str) -> None:
    batch = make_batch(rows=3, negatives=1, teachers=[8])
    loss = of_name(name, [8])

    def single(side: object) -> dict[str, Tensor]:
        return {part: getattr(side, part).detach().float() for part in ("queries", "positives", "negatives")}

    exact = loss(batch).item()
    lower = replace(batch, **single(batch), teachers=tuple(replace(one, **single(one)) for one in batch.teachers))  # type: ignore[arg-type]
    assert loss.float()(lower).item() == pytest.approx(exact, rel=1e-4)


def test_a_prefix_is_cut_and_normalised_and_leaves_teachers_and_scores_alone(make_batch: MakeBatch) -> None:
    batch = replace(make_batch(negatives=2, teachers=[5]), scores=torch.ones(6, 3))
    short = batch.prefix(3)
    assert short.negatives is not None and batch.negatives is not None
    for cut, whole in (
        (short.queries, batch.queries),
        (short.positives, batch.positives),
        (short.negatives, batch.negatives),
    ):
        assert torch.equal(cut, functional.normalize(whole[..., :3], dim=-1))
    assert short.teachers is batch.teachers and short.scores is batch.scores and short.equal is batch.equal
    assert make_batch().prefix(3).negatives is None


def test_a_vector_of_a_teacher_is_not_compared_with_a_prefix() -> None:
    assert not of_name("vectors", [8]).of_prefixes
    assert of_name("contrastive", []).of_prefixes and of_name("similarities", [8]).of_prefixes


@ALL
def test_a_loss_that_learns_from_a_teacher_needs_one(name: str) -> None:
    distilling = of_name(name, [8]).needs_teacher
    assert distilling or name not in {"relative", "similarities", "structure", "vectors"}
    if distilling:
        with pytest.raises(UsageError, match=f"loss {name}: learns from a teacher, and this model has none"):
            of_name(name, [])
    else:
        of_name(name, [])


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("contrastiv", {}, "unknown loss 'contrastiv', did you mean 'contrastive'? (known: contrastive, relative, "),
        ("__init__", {}, "unknown loss '__init__' (known: "),
        ("contrastive", {}, "loss contrastive: temperature: is missing"),
        ("contrastive", {"temperature": 0}, "loss contrastive: temperature: should be greater than 0, got 0"),
        ("contrastive", {"temperature": float("nan")}, "loss contrastive: temperature: should be"),
        (
            "contrastive",
            {"temperature": 0.1, "hardnes": 9.0},
            "loss contrastive: hardnes: unknown setting (known: temp",
        ),
        (
            "contrastive",
            {"temperature": 0.1, "directions": "back"},
            "should be 'both' or 'query_to_positive', got 'back'",
        ),
        ("contrastive", {"temperature": 0.1, "hardness": -1}, "should be greater than or equal to 0, got -1"),
        ("structure", {"temperature": 0.1}, "loss structure: temperature: unknown setting (known: none)"),
        (
            "scores",
            {"student_temperature": "warm"},
            "student_temperature: should be a valid number, got 'warm'; teacher_temperature: is missing",
        ),
    ],
)
def test_a_wrong_loss_is_refused_with_what_is_wrong(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        check(name, settings)
    with pytest.raises(ValueError, match=re.escape(message)):
        build(name, settings, 8, [8])


def test_a_recipe_is_checked_when_it_is_read() -> None:
    term = LossTerm.model_validate({"name": "contrastive", "weight": 2.0, "temperature": 0.05, "hardness": 9.0})
    assert term.settings == {"temperature": 0.05, "hardness": 9.0}
    with pytest.raises(ValueError, match="did you mean 'vectors'"):
        LossTerm.model_validate({"name": "vector"})


def test_a_new_loss_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_batch: MakeBatch) -> None:
    (tmp_path / "nothing.py").write_text(
        "from components.sections import Section\n"
        "from components.training import losses\n"
        "class Settings(Section):\n"
        "    times: float\n"
        "class Loss(losses.Loss):\n"
        "    def forward(self, batch):\n"
        "        return batch.queries.sum() * self.settings.times\n"
    )
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert "nothing" in names()
    assert build("nothing", {"times": 0.0}, 8, [])(make_batch()).item() == 0
    with pytest.raises(ValueError, match="times: is missing"):
        check("nothing", {})
