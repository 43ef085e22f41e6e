"""A workspace whose registry has a champion: the architecture of the student in params.yaml, with random weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from components.config import PARAMETERS, read
from components.embedder import OnnxEmbedder
from components.embedder.dual_encoder import save
from components.export.bundle import (
    DESCRIPTION,
    EXPECTED,
    MODEL,
    TRITON_CONFIG,
    VERSION,
    Bundle,
    served_fingerprint,
    triton_config,
    write_example,
    write_version,
)
from components.export.capacity import Capacity
from components.export.config import VARIANTS, Export, Serving
from components.export.exporters import exporter_of
from components.registry import Verdict, models, promotion, tracking
from components.scores import SCORER, Model, Scores
from export import OPSET, small, text_items

ROOT = Path(__file__).resolve().parent.parent


def make(root: Path, **serving: Any) -> None:
    """Makes the workspace `root`; `serving` are settings of that section besides free ports for everything."""
    content = yaml.safe_load((ROOT / PARAMETERS).read_text(encoding="utf-8"))
    ports = {f"{use}_port": 0 for use in ("http", "grpc", "metrics", "supervisor_metrics")}
    content["serving"] |= ports | {"variant": "fp32"} | serving
    content["gateway"]["port"] = 0
    root.mkdir(parents=True)
    (root / PARAMETERS).write_text(yaml.safe_dump(content), encoding="utf-8")
    config = read(root / PARAMETERS)
    bundle = make_bundle(root / "bundle", config.serving)
    champion = Model("", bundle.model_fingerprint, bundle.dimension, None)
    scores = Scores(champion, "none", "0", SCORER, "0", {}, [], [], {"overall": 0.0}, {})
    tracked = tracking.prepare(root)
    version = models.register(tracking.start_round(tracked, {}, {}), root / "bundle", scores, {})
    promotion.nominate(tracked, version)
    quality = Verdict("quality", champion.fingerprint, None, (), (), {})
    promotion.promote(
        tracked, version, quality, Verdict("infrastructure", bundle.fingerprint, None, (), (), {}), "a benchmark"
    )


def make_bundle(folder: Path, config: Serving) -> Bundle:
    """Writes a bundle that answers; its examples are texts."""
    folder.mkdir()
    save(small(), folder / "model")
    exporter_of(folder / "model").export(folder / "model", folder / "graphs", OPSET)
    settings: Any = {"opset": OPSET, "parity_items": 1, "variants": [{"name": "fp32", "parity_cosine": 0.0}]}
    (variant,) = Export.model_validate(settings).variants
    VARIANTS.of(variant).write(variant, folder / "graphs", folder / "fp32", [])
    write_version(folder / "fp32", folder / VERSION)
    threads = config.threads or 1
    (folder / TRITON_CONFIG).write_text(triton_config(config, Capacity(threads, 1)), encoding="utf-8")
    embedder = OnnxEmbedder(folder / VERSION, threads=threads)
    items = text_items(4)
    np.save(folder / EXPECTED, embedder.encode(items))
    bundle = Bundle(
        model_name=MODEL,
        dimension=embedder.dimension,
        variant="fp32",
        fingerprint=served_fingerprint(folder),
        model_fingerprint="random",
        dataset_digest="none",
        examples=[write_example(item, number, folder) for number, item in enumerate(items)],
        expected=EXPECTED,
    )
    (folder / DESCRIPTION).write_text(json.dumps(asdict(bundle)), encoding="utf-8")
    return bundle
