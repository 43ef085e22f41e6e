import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sentence_transformers.base.modules import Transformer
from transformers.utils.import_utils import is_torchvision_available

from components.backends.sentence_transformer import load_model
from components.backends.tiny import ARCHITECTURES, write_tiny
from components.errors import UsageError

TEXT = "Ein Fräulein\n sieht 😀"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sentence_transformers_loads_every_architecture(architecture: str, tmp_path: Path) -> None:
    write_tiny(architecture, tmp_path / "model")
    module = load_model(Transformer, tmp_path / "model")
    assert {"text", "image"} <= set(module.modalities)
    assert sum(parameter.numel() for parameter in module.parameters()) < 1_000_000
    assert module.tokenizer is not None
    decoded = module.tokenizer.decode(module.tokenizer(TEXT)["input_ids"], skip_special_tokens=True)
    assert decoded == (TEXT.lower() if architecture == "siglip2" else TEXT)


def test_the_seed_decides_the_weights_and_no_other_random_number(tmp_path: Path) -> None:
    state = torch.get_rng_state()
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        write_tiny("clip", tmp_path / name, seed)
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "same", "other"))
    assert all(torch.equal(weights, same[name]) for name, weights in one.items())
    assert not torch.equal(one["text_projection.weight"], other["text_projection.weight"])
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_architecture_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="perceiver") as raised:
        write_tiny("perceiver", tmp_path / "model")
    assert all(architecture in raised.value.remedy for architecture in ARCHITECTURES)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(is_torchvision_available(), reason="only where torchvision is missing")
def test_where_torchvision_is_missing_videos_are_refused_and_their_settings_kept(tmp_path: Path) -> None:
    write_tiny("qwen2_vl", tmp_path / "model")
    module = load_model(Transformer, tmp_path / "model")
    with pytest.raises(UsageError, match="torchvision"):
        module.preprocess([{"video": [Image.new("RGB", (16, 16))] * 2}])
    module.save(str(tmp_path / "saved"))
    first, second = (
        json.loads((tmp_path / name / "processor_config.json").read_text())["video_processor"]
        for name in ("model", "saved")
    )
    assert first == second
    assert first["video_processor_type"] == "Qwen2VLVideoProcessor" and first["patch_size"] == 8
