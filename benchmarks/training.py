"""How many pairs a second are trained: our stage beside sentence-transformers' trainer and a bare PyTorch loop, on the
same towers, pairs, batches, precision and optimiser; and with both towers frozen, where ours computes them once.

    python benchmarks/training.py            the median of three runs, by turns
    python benchmarks/training.py --quick    one run of a few steps

The task is one that all three can do: a name to its image. Speeds are of steps alone, after a third of them has been
left to warm up. What comes before (reading, pixels, a frozen tower's outputs) is in no speed.
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from components.quiet import configure

configure()

# isort: split
import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from datasets import Dataset, Image
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import batch_to_device, get_device_name
from torch.nn import functional
from torch.utils.data import BatchSampler, RandomSampler
from transformers import PrinterCallback, TrainerCallback

from components import config as configuration
from components.corpus.layout import read_pairs, write_table
from components.corpus.rows import TRAIN_SCHEMA
from components.embedder.dual_encoder import DualEncoder, autocast, is_bfloat16
from components.profiles import overlay
from components.training import TrainingPaths, train_model
from components.training.config import Planned, Recipe, Towers
from components.training.features import pixels
from components.training.loop import CLIP_NORM, learning_rate_fraction
from components.training.towers import build_towers
from table import Row, show

ROOT = Path(__file__).resolve().parent.parent
TASK = "NameToImage"
BATCH = 128
TEMPERATURE = 0.05
LEARNING_RATE = 1e-4
"""The teacher's own would ruin its text tower, which learns here, in a few steps."""
LOSS_TOLERANCE = 0.25
"""How far the losses after the last step may differ, in nats: batches are drawn differently. Chance is 4.9."""
FROZEN = ("text_model", "vision_model")


@dataclass
class Watch:
    """What a training says of itself, every `every` steps: the time and the loss."""

    every: int
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def tell(self, loss: float) -> None:
        self.seconds.append(time.perf_counter())
        self.losses.append(loss)

    @property
    def pairs_per_second(self) -> float:
        return BATCH * self.every * (len(self.seconds) - 1) / (self.seconds[-1] - self.seconds[0])


Training = Callable[[Recipe, Path, Watch], None]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One run of a few steps.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
    workspace: Annotated[Path, typer.Option(help="Where `embedline run` was called.")] = Path(),
    steps: Annotated[int, typer.Option(min=3, help="Of a run; ten times as many where towers are frozen.")] = 60,
    runs: Annotated[int, typer.Option(min=1)] = 3,
) -> None:
    if not (workspace / "data" / "train" / f"{TASK}.parquet").is_file():
        raise SystemExit(f"{workspace / 'data'} has no {TASK} to train on: `embedline ingest` builds the emoji corpus")
    steps, runs = (3, 1) if quick else (steps, runs)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        data = whole_batches(workspace / "data", Path(folder) / "data")
        both, frozen = recipe(steps), recipe(10 * steps, FROZEN)
        ours, trainers, loops = in_turn(runs, both, data, [our_stage, their_trainer, bare_loop])
        require_same({"our stage": ours, "their trainer": trainers, "the loop": loops})
        (cached,) = in_turn(runs, frozen, data, [our_stage])
        (computed,) = in_turn(runs, recipe(steps, FROZEN), data, [bare_loop])
    rows = [
        compared("both towers learn (sentence-transformers' trainer)", ours, trainers, 1),
        compared("both towers learn (PyTorch loop)", ours, loops, 0.9),
        compared("frozen towers, cached (ours, both towers learn)", cached, ours, 10),
        compared("frozen towers, cached (PyTorch loop that computes the frozen towers)", cached, computed, 10),
    ]
    show("Training", rows, machine)


def our_stage(recipe: Recipe, data: Path, watch: Watch) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = TrainingPaths(data, folder / "negatives", folder / "model", folder / "checkpoints")
        train_model(recipe, paths, lambda _, metrics: watch.tell(metrics["loss"]))


def their_trainer(recipe: Recipe, data: Path, watch: Watch) -> None:
    """Trains as sentence-transformers' documentation shows: images are files of a data set, decoded as they come."""
    schedule = Planned.model_validate(recipe.schedule.model_dump())
    names, images = names_and_images(data)
    pairs = Dataset.from_dict({"anchor": names, "positive": [str(image) for image in images]})
    model = SentenceTransformer(modules=[encoder(recipe)], device=get_device_name())
    loss = MultipleNegativesRankingLoss(
        model, 1 / TEMPERATURE, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            max_steps=schedule.steps,
            per_device_train_batch_size=schedule.batch_size,
            learning_rate=schedule.learning_rate,
            weight_decay=schedule.weight_decay,
            lr_scheduler_type="cosine",
            warmup_steps=round(schedule.steps * schedule.warmup_fraction),
            max_grad_norm=CLIP_NORM,
            bf16=is_bfloat16(schedule.precision, torch.device(get_device_name())),
            use_cpu=get_device_name() == "cpu",
            seed=schedule.seed,
            logging_steps=watch.every,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        dataset = pairs.cast_column("positive", Image())
        trainer = SentenceTransformerTrainer(model, arguments, dataset, loss=loss, callbacks=[Logged(watch)])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


class Logged(TrainerCallback):
    """Passes what the trainer logs to the watch."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.watch.tell(float(logs["loss"]))


def bare_loop(recipe: Recipe, data: Path, watch: Watch) -> None:
    """Trains with the fewest lines of PyTorch: tokens and pixels are in memory, there is nothing but the steps."""
    schedule = Planned.model_validate(recipe.schedule.model_dump())
    module = encoder(recipe).to(get_device_name()).train()
    device = module.model.device
    for tower in frozen_towers(recipe, module):
        tower.eval().requires_grad_(False)
    names, images = names_and_images(data)
    tokens = batch_to_device(module.tokens(names), device)
    with tempfile.TemporaryDirectory() as folder:
        size = module.description.image_size
        decoded = torch.from_numpy(np.array(pixels(images, size, Path(folder) / "pixels.npy"))).to(device)
    learns = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learns, schedule.learning_rate, weight_decay=schedule.weight_decay, fused=True)
    rates = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: learning_rate_fraction(step, schedule))
    targets = torch.arange(schedule.batch_size, device=device)
    torch.manual_seed(schedule.seed)
    drawn = RandomSampler(names, num_samples=schedule.steps * schedule.batch_size)
    for step, rows in enumerate(BatchSampler(drawn, schedule.batch_size, drop_last=True), start=1):
        mask = tokens["attention_mask"][rows]
        longest = int(mask.sum(1).max())
        with autocast(schedule.precision, device):
            texts = module.embed_text(tokens["input_ids"][rows, :longest], mask[:, :longest])
            shown = module.embed_images((decoded[rows].float() / 255 - 0.5) / 0.5)
        similarities = texts.float() @ shown.float().T / TEMPERATURE
        loss = (functional.cross_entropy(similarities, targets) + functional.cross_entropy(similarities.T, targets)) / 2
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learns, CLIP_NORM)
        optimiser.step()
        rates.step()
        if step % watch.every == 0:
            watch.tell(loss.item())


def recipe(steps: int, frozen: Sequence[str] = ()) -> Recipe:
    """Returns the teacher's recipe of `params.yaml`, made plain: one task, bare texts, images as they are."""
    configured = configuration.read(ROOT / configuration.PARAMETERS).teacher
    changes = {
        "backbone": {"instruction_weight": 0.0},
        "phases": [
            {
                "lr_multipliers": dict.fromkeys(frozen, 0.0),
                "losses": [{"name": "contrastive", "temperature": TEMPERATURE}],
            }
        ],
        "schedule": {
            "steps": steps,
            "batch_size": BATCH,
            "sub_batches": 1,
            "companions": False,
            "augmentation": 0.0,
            "learning_rate": LEARNING_RATE,
            "checkpoint_every": steps,
            "log_every": steps // 3,
        },
    }
    return Recipe.model_validate(overlay(configured.model_dump(), changes))


def encoder(recipe: Recipe) -> DualEncoder:
    if not isinstance(recipe.backbone, Towers):
        raise SystemExit("params.yaml: teacher.backbone: the loops beside ours want towers; undo the profile")
    return build_towers(recipe.backbone, [], recipe.schedule.seed)


def frozen_towers(recipe: Recipe, module: DualEncoder) -> list[torch.nn.Module]:
    return [getattr(module.model, name) for name, rate in recipe.phases[0].lr_multipliers.items() if not rate]


def whole_batches(data: Path, copy: Path) -> Path:
    """Returns a data set of that one task, cut to whole batches: a smaller batch would count as a full one."""
    table = pq.read_table(data / "train" / f"{TASK}.parquet")
    write_table(copy / "train" / f"{TASK}.parquet", TRAIN_SCHEMA, table.slice(0, table.num_rows // BATCH * BATCH))
    (copy / "manifest.json").write_bytes((data / "manifest.json").read_bytes())
    (copy / "images").symlink_to((data / "images").resolve())
    return copy


def names_and_images(data: Path) -> tuple[list[str], list[Path]]:
    pairs = list(read_pairs(data, TASK))
    return [str(pair.query.text) for pair in pairs], [Path(str(pair.positive.image)) for pair in pairs]


def in_turn(runs: int, recipe: Recipe, data: Path, trainings: Sequence[Training]) -> list[list[Watch]]:
    """Returns the watches of each training's runs; by turns, so that other work slows all alike."""
    watches: list[list[Watch]] = [[] for _ in trainings]
    for _ in range(runs):
        for training, seen in zip(trainings, watches, strict=True):
            watch = Watch(recipe.schedule.log_every)
            training(recipe, data, watch)
            seen.append(watch)
    return watches


def require_same(watches: Mapping[str, Sequence[Watch]]) -> None:
    """Raises `SystemExit` if the trainings do not learn alike: then their speeds do not compare."""
    losses = {name: statistics.median(watch.losses[-1] for watch in seen) for name, seen in watches.items()}
    if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
        raise SystemExit(f"the losses after the last step differ: {losses}: what differs in result does not compare")


def compared(name: str, ours: Sequence[Watch], theirs: Sequence[Watch], goal: float) -> Row:
    value, peer = (statistics.median(watch.pairs_per_second for watch in seen) for seen in (ours, theirs))
    return Row(name, value, "pairs/s", peer, value / peer, goal, value / peer >= goal)


if __name__ == "__main__":
    typer.run(main)
