"""What every exported variant weighs, how fast it encodes and how alike, beside the model itself in torch.

Two models: the student in artifacts/student, or one of its architecture with random weights, and a dual encoder of the
size of ViT-B/32 with random weights. All are timed by turns. Chosen is what `serving.variant: auto` would take if the
share of items whose nearest other item changes were the loss.

    python benchmarks/export.py            medians of five runs by turns
    python benchmarks/export.py --quick    the student alone, or one of its architecture
"""

# ruff: noqa: E402  (tools read the switches that configure() sets when they are imported)
from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from components.quiet import configure

configure()

# isort: split
import numpy as np
import torch
import typer
from PIL import Image
from transformers import AutoTokenizer, BertConfig, BertModel, ViTConfig, ViTModel

from components.corpus import Item
from components.embedder import Embedder, OnnxEmbedder, TorchEmbedder, find_model
from components.embedder.dual_encoder import DualEncoder, assemble, save
from components.embedder.runtime import Description
from components.embedder.towers.image.residual import ResidualImageConfig, ResidualImageModel
from components.embedder.towers.text.word_vectors import WordVectorsConfig, WordVectorsModel
from components.export.choice import Measured, choose, speeds
from components.export.config import VARIANTS, Export
from components.export.export import obstacle
from components.export.exporters import exporter_of
from components.export.parity import likeness, rank_agreement
from components.workspace import STUDENT
from table import Row, show

TOKENIZER = "sentence-transformers/all-MiniLM-L6-v2"
NAMES = ("fp32", "fp16", "int8", "int8_weights", "int4", "openvino_fp32", "openvino_bf16")
OPSET, MAX_LOSS = 20, 0.05
GOAL = 1.5
"""How many times as fast as fp32 the faster one of int8 and bf16 is to be on the large model."""
CALIBRATED, ALIKE = 64, 200
"""How many images calibrate, and how many items of each kind are compared."""


def main(
    quick: Annotated[bool, typer.Option("--quick", help="The small model alone.")] = False,
    machine: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [*of_student(Path(folder, "small"), quick)]
        if not quick:
            save(vit_b_32(), Path(folder, "large", "model"))
            rows += measured("ViT-B/32", Path(folder, "large", "model"), Path(folder, "large"), 32, 8)
    show("Export", rows, machine, "in brackets: the peer; texts and images a second are beside torch in fp32")


def of_student(folder: Path, quick: bool) -> Iterator[Row]:
    model = STUDENT if STUDENT.is_dir() else folder / "model"
    if model != STUDENT:
        save(small(), model)
    yield from measured("student", model, folder, 256, 32 if quick else 128)


def small() -> DualEncoder:
    """Returns a dual encoder of the architecture of the student in params.yaml, with random weights."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(find_model(TOKENIZER))
    texts = WordVectorsModel(WordVectorsConfig(vocab_size=len(tokenizer), hidden_size=96))
    images = ResidualImageModel(ResidualImageConfig(image_size=64, widths=(64, 128, 384), depths=(1, 2, 1)))
    return assemble(texts, images, tokenizer, Description(384, 64, (0.5,) * 3, (0.5,) * 3, 32, 0.2, (384,)))


def vit_b_32() -> DualEncoder:
    """Returns a dual encoder of the sizes of CLIP ViT-B/32, with random weights."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(find_model(TOKENIZER))
    images = ViTModel(ViTConfig(image_size=224, patch_size=32))
    texts = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=512,
            num_hidden_layers=12,
            num_attention_heads=8,
            intermediate_size=2048,
            max_position_embeddings=77,
        )
    )
    return assemble(texts, images, tokenizer, Description(512, 224, (0.5,) * 3, (0.5,) * 3, 77, 0.2, (512,)))


def measured(name: str, model: Path, folder: Path, texts: int, images: int) -> Iterator[Row]:
    """Yields what each variant of a model weighs, how fast it is and how alike, and which one is chosen."""
    sides = {"texts": text_items(max(texts, ALIKE)), "images": image_items(max(images, ALIKE // 4))}
    exported = dict(export(model, folder, sides["images"]))
    embedders: dict[str, Embedder] = {"torch": TorchEmbedder(model), **exported}
    speed = {
        side: speeds(embedders, items[:most])
        for (side, items), most in zip(sides.items(), (texts, images), strict=True)
    }
    vectors = {each: [embedder.encode(items) for items in sides.values()] for each, embedder in embedders.items()}
    found = {}
    for variant, embedder in exported.items():
        size = sum(file.stat().st_size for file in (folder / variant).rglob("*") if file.is_file()) / 1e6
        pairs = [*zip(vectors["torch"], vectors[variant], strict=True)]
        cosine = min(float(likeness(*pair).min()) for pair in pairs)
        first, ten = (float(np.mean([rank_agreement(*pair, k) for pair in pairs])) for k in (1, 10))
        found[variant] = Measured(
            embedder.provider, int(size * 1e6), speed["texts"][variant], speed["images"][variant], cosine, first, ten,
            first, (0.0, 1.0), 1 - first, 1 - first,
        )  # fmt: skip
        yield Row(f"{name}, {variant}: size", size, "MB")
        for side in sides:
            ours, peer = speed[side][variant], speed[side]["torch"]
            yield Row(f"  {side} (torch)", ours, "a second", peer, ours / peer)
        yield Row("  least cosine to torch: below 1 by", 1e6 * (1 - cosine), "millionths")
        yield Row("  same nearest item", 100 * first, "%")
        yield Row("  same ten nearest", 100 * ten, "%")
    yield from goals(name, found)


def goals(name: str, found: dict[str, Measured]) -> Iterator[Row]:
    least = found["fp32"].items_per_second
    if name != "student":
        best = max(found[each].items_per_second for each in ("int8", "openvino_bf16") if each in found)
        yield Row(f"{name}: int8 or bf16 (fp32)", best, "items/s", least, best / least, GOAL, best >= GOAL * least)
    (row,) = (row for row in choose(list(found), found, MAX_LOSS) if row.chosen)
    ours = found[row.variant].items_per_second
    yield Row(f"{name}: chosen, {row.variant} (fp32)", ours, "items/s", least, ours / least, 1, ours >= least)


def export(model: Path, folder: Path, images: Sequence[Item]) -> Iterator[tuple[str, OnnxEmbedder]]:
    """Yields every variant that this machine computes, written to `folder/NAME`."""
    exporter_of(model).export(model, folder / "graphs", OPSET)
    calibrated = {"int8": {"calibration_images": CALIBRATED}}
    variants: list[Any] = [{"name": name, "parity_cosine": 0.0, **calibrated.get(name, {})} for name in NAMES]
    for variant in Export.model_validate({"opset": OPSET, "parity_items": 1, "variants": variants}).variants:
        if reason := obstacle(variant):
            typer.echo(f"{variant.name} is not measured: {reason}", err=True)
            continue
        VARIANTS.of(variant).write(variant, folder / "graphs", folder / variant.name, images)
        yield variant.name, OnnxEmbedder(folder / variant.name)


def text_items(count: int) -> list[Item]:
    """Returns texts of 3 to 16 words of the tokenizer."""
    noise = np.random.default_rng(0)
    words = sorted(word for word in AutoTokenizer.from_pretrained(find_model(TOKENIZER)).get_vocab() if word.isalpha())
    return [Item(" ".join(noise.choice(words, noise.integers(3, 17))), None) for _ in range(count)]


def image_items(count: int) -> list[Item]:
    """Returns images of 96 x 96 pixels with a few large patches of colour."""
    noise = np.random.default_rng(0)
    return [Item(None, png(Image.fromarray(noise.integers(0, 256, (4, 4, 3), np.uint8)))) for _ in range(count)]


def png(coarse: Image.Image) -> bytes:
    file = io.BytesIO()
    coarse.resize((96, 96)).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    typer.run(main)
