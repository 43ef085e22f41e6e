"""Hard negatives of a training set, mined by a model and, where one is named, scored by a reranker."""

from __future__ import annotations

from pathlib import Path

from components.files import atomic_directory
from components.training.config import Negatives
from components.training.teachers import open_teacher


def mine_negatives(config: Negatives, data: Path, output: Path) -> None:
    """Writes the hard negatives of every row of the training set to `output`, scored if there is a reranker; none
    without a model."""
    with atomic_directory(output) as partial:
        (partial / "settings.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if config.model:
            _mine(config.model, config, data, partial)


def _mine(model: str, config: Negatives, data: Path, output: Path) -> None:
    from components.training.examples import read_examples
    from components.training.negatives import mine_examples, write_negatives
    from components.training.reranker import Reranker, rerank

    examples = read_examples(data)
    # opened before the mining, which takes long, for it may refuse the pairs
    reranker = Reranker(config.reranker, examples) if config.reranker else None
    mined = mine_examples(open_teacher(model), examples, config)
    write_negatives(rerank(reranker, mined) if reranker else mined, examples, output)
