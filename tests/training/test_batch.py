from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from components.config import Schedule, Teacher
from components.training.batch import BatchEncoder, Drawer, sum_of_parts
from components.training.examples import IMAGE, NONE, TEXT, Examples
from components.training.features import pixels
from components.training.teacher import build_teacher

MakeSchedule = Callable[..., Schedule]


def test_a_batch_depends_on_the_seed_and_the_step_alone(make_schedule: MakeSchedule, examples: Examples) -> None:
    draw = Drawer(examples, make_schedule())
    first, later = draw(4), draw(5)
    again, other = Drawer(examples, make_schedule())(4), Drawer(examples, make_schedule(seed=4))(4)
    assert torch.equal(first.queries, again.queries) and torch.equal(first.positives, again.positives)
    assert first.queries.tolist() not in (other.queries.tolist(), later.queries.tolist())


def test_the_rows_of_a_task_stand_together_each_once_and_the_shares_sum_to_one(
    make_schedule: MakeSchedule, examples: Examples
) -> None:
    draw = Drawer(examples, make_schedule())
    for step in range(30):
        batch = draw(step)
        assert [span.rows.start for span in batch.tasks] == [0, *(span.rows.stop for span in batch.tasks[:-1])]
        assert batch.tasks[-1].rows.stop == len(batch.queries) == len(batch.positives)
        assert sum(span.share for span in batch.tasks) == pytest.approx(1)
        for span in batch.tasks:
            rows = torch.cat([batch.queries[span.rows], batch.positives[span.rows]], 1).tolist()
            task = task_of(batch.queries[span.rows.start], examples)
            known = np.concatenate([examples.queries[task], examples.positives[task]], 1).tolist()
            assert all(row in known for row in rows)
            assert len({tuple(row) for row in rows}) == len(rows) > 1


def test_what_is_known_of_a_drawn_picture_joins_the_batch(make_schedule: MakeSchedule, examples: Examples) -> None:
    """Pictures cost time, texts do not: the name of every drawn picture is in the batch, and no picture is added."""
    draw = Drawer(examples, make_schedule(task_weights={"Shown": 1e-9, "LeftOf": 1e-9}, sub_batches=1))
    batch = draw(0)
    names, shown = (
        batch.queries[span.rows] if index == 0 else batch.positives[span.rows]
        for index, span in enumerate(batch.tasks[:2])
    )
    assert [task_of(batch.queries[span.rows.start], examples) for span in batch.tasks] == ["Name", "Shown"]
    assert names[:, TEXT].tolist() == shown[:, TEXT].tolist() and len(names) == 8


def test_a_task_of_weight_zero_never_joins_a_batch(make_schedule: MakeSchedule, examples: Examples) -> None:
    def tasks(**weights: float) -> set[str]:
        draw = Drawer(examples, make_schedule(task_weights=weights))
        return {
            task_of(batch.queries[span.rows.start], examples) for batch in map(draw, range(30)) for span in batch.tasks
        }

    assert tasks() == {"Name", "Shown", "LeftOf"}
    assert tasks(Shown=0) == {"Name", "LeftOf"} and tasks(Name=0, LeftOf=0) == {"Shown"}


def test_every_picture_of_an_unmirrored_task_keeps_its_sides(make_schedule: MakeSchedule, examples: Examples) -> None:
    draw, kept = Drawer(examples, make_schedule()), set()
    for step in range(30):
        batch = draw(step)
        fixed = {
            int(image)
            for span in batch.tasks
            if task_of(batch.queries[span.rows.start], examples) == "LeftOf"
            for side in (batch.queries, batch.positives)
            for image in side[span.rows, IMAGE]
        }
        assert set(batch.unmirrored_images.tolist()) == fixed
        kept.add(bool(fixed))
    assert kept == {True, False}


def test_the_vectors_of_a_batch_are_those_of_the_embedder(
    make_teacher: Callable[..., Teacher], examples: Examples, tmp_path: Path
) -> None:
    config = make_teacher(augmentation=0.0)
    encoder = build_teacher(config)
    pictures = pixels(examples.images, 16, tmp_path / "images.npy")

    def embed_texts(texts: Tensor) -> Tensor:
        return encoder.embed_text(**encoder.tokens([examples.texts[number] for number in texts]))

    batch = Drawer(examples, config.schedule)(1)
    with torch.inference_mode():
        queries, positives = BatchEncoder(encoder, pictures, embed_texts, config.schedule).encode(batch, 1)
        for rows, vectors in ((batch.queries, queries), (batch.positives, positives)):
            items = [
                {
                    "text": None if text == NONE else examples.texts[text],
                    "image": None if image == NONE else examples.images[image],
                    "instruction": None if instruction == NONE else examples.texts[instruction],
                }
                for text, image, instruction in rows.tolist()
            ]
            expected = encoder(encoder.preprocess(items))["sentence_embedding"]
            torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_a_picture_that_occurs_twice_is_augmented_once(
    make_teacher: Callable[..., Teacher], examples: Examples, tmp_path: Path
) -> None:
    config = make_teacher(augmentation=1.0, sub_batches=1, batch_size=10, task_weights={"Name": 0, "Shown": 0})
    encoder = build_teacher(config)
    pictures = pixels(examples.images, 16, tmp_path / "images.npy")
    batch = Drawer(examples, config.schedule)(0)
    alone = torch.full_like(batch.queries, NONE)
    alone[:, IMAGE] = batch.queries[:, IMAGE]
    also = torch.full_like(batch.positives, NONE)
    also[:, IMAGE] = batch.queries[:, IMAGE]
    twice = type(batch)(alone, also, batch.tasks, batch.unmirrored_images)
    no_texts: Callable[[Tensor], Tensor] = lambda texts: torch.zeros(len(texts), 24)  # noqa: E731
    with torch.inference_mode():
        encode = BatchEncoder(encoder, pictures, no_texts, config.schedule).encode
        queries, positives = encode(twice, 0)
        assert torch.equal(queries, positives)
        assert torch.equal(encode(twice, 0)[0], queries)
        assert not torch.allclose(encode(twice, 1)[0], queries, atol=1e-3)


def test_a_sum_of_parts_is_weighted_and_normalised(make_teacher: Callable[..., Teacher]) -> None:
    description = build_teacher(make_teacher()).description
    texts, images = torch.randn(4, 24), torch.randn(3, 24)
    positions = torch.tensor([[0, NONE, NONE], [NONE, 2, NONE], [1, 2, 3], [1, NONE, 3]])
    found = sum_of_parts(positions, texts.__getitem__, images.__getitem__, description)
    expected = torch.stack([texts[0], images[2], texts[1] + images[2] + 0.2 * texts[3], texts[1] + 0.2 * texts[3]])
    torch.testing.assert_close(found, functional.normalize(expected, dim=-1))


def task_of(query: Tensor, examples: Examples) -> str:
    return next(task for task, rows in examples.queries.items() if query.tolist() in rows.tolist())
