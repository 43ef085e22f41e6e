from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from components.config import Config
from components.embedder.towers.image.pretrained import Settings as PretrainedImage
from components.embedder.towers.text.pretrained import Settings as PretrainedText
from components.embedder.towers.text.word_vectors import WordVectorsModel, vocabulary_size
from components.errors import EmbedlineError, UsageError
from components.training.config import Towers
from components.training.examples import Examples
from components.training.towers import build_towers

from .conftest import MakeRecipe, fit, same, untrained, weights


def test_the_pretrained_words_mean_at_first_what_they_meant(make_teaching: MakeRecipe, examples: Examples) -> None:
    encoder = untrained(make_teaching())
    with torch.inference_mode():
        pooled = encoder.pool_text(**encoder.tokens(examples.texts))
        torch.testing.assert_close(encoder.project_text(pooled), torch.nn.functional.normalize(pooled, dim=-1))


def test_what_is_new_depends_on_the_seed_alone(make_teaching: MakeRecipe) -> None:
    one, again, other = (weights(untrained(make_teaching(seed=seed))) for seed in (1, 1, 2))
    assert same(one, again) and not same(one, other)
    pretrained = {name for name in one if "text_model" in name}
    assert pretrained and all(torch.equal(one[name], other[name]) for name in pretrained)


def test_a_text_model_that_is_nowhere_is_named(make_teaching: MakeRecipe) -> None:
    text = PretrainedText(kind="pretrained", model="/no/such/model").model_dump()
    with pytest.raises(EmbedlineError, match="/no/such/model"):
        untrained(make_teaching(text=text))


def test_the_description_says_what_the_recipe_says(make_teaching: MakeRecipe, make_learning: MakeRecipe) -> None:
    assert untrained(make_teaching()).description.matryoshka_dimensions == (24,)
    description = untrained(make_learning(max_tokens=7, instruction_weight=0.5)).description
    assert (description.dimension, description.max_tokens, description.instruction_weight) == (24, 7, 0.5)
    assert description.matryoshka_dimensions == (24, 12) and description.image_size == 16


def test_a_pretrained_image_tower_can_be_trained(make_teaching: MakeRecipe, examples: Examples, tmp_path: Path) -> None:
    config = CLIPVisionConfig(
        image_size=16, patch_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    CLIPVisionModel(config).save_pretrained(tmp_path / "image_model")
    CLIPImageProcessor().save_pretrained(tmp_path / "image_model")
    image = {"kind": "pretrained", "model": str(tmp_path / "image_model"), "image_size": 16}
    recipe = make_teaching(image=image, chunk=5, steps=2)  # no batch normalisation: chunks can be computed
    before = weights(untrained(recipe))
    stored = CLIPVisionModel.from_pretrained(tmp_path / "image_model").state_dict()
    assert all(torch.equal(before[f"model.vision_model.{name}"], value) for name, value in stored.items())
    after = weights(fit(recipe, examples, tmp_path / "work"))
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_model", "visual_projection", "text_projection"}


def test_every_token_has_a_vector_whatever_its_number(make_learning: MakeRecipe) -> None:
    """The tokenizer of these tests leaves a number out: it has more numbers than tokens."""
    student = untrained(make_learning())
    tower = student.model.text_model
    assert isinstance(tower, WordVectorsModel)
    numbers = student.tokenizer.get_vocab().values()
    assert len(tower.embeddings.weight) == vocabulary_size(student.tokenizer) == max(numbers) + 1 > len(numbers)


def test_the_shipped_teacher_has_the_default_text_tower(params: Config) -> None:
    assert params.teacher.backbone.kind == "towers"
    encoder = build_towers(params.teacher.backbone, [], 0)
    assert encoder.get_embedding_dimension() == 384
    assert sum(parameter.numel() for parameter in encoder.model.text_model.parameters()) > 22_000_000


def test_the_shipped_student_has_at_most_a_quarter_of_the_teachers_parameters(params: Config) -> None:
    counts = []
    for recipe in (params.teacher, params.distillation):
        assert recipe.backbone.kind == "towers"
        model = build_towers(recipe.backbone, recipe.matryoshka_dimensions, 0)
        counts.append(sum(np.prod(parameter.shape) for parameter in model.parameters()))
    assert 1_000_000 < counts[1] <= counts[0] / 4


def test_a_pretrained_image_tower_sees_the_colours_that_it_learned_with(
    make_teaching: MakeRecipe, tmp_path: Path
) -> None:
    def with_tower(directory: Path) -> Towers:
        backbone = make_teaching().backbone
        assert isinstance(backbone, Towers)
        image = PretrainedImage(kind="pretrained", model=str(directory), image_size=16)
        return backbone.model_copy(update={"image": image})

    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    CLIPVisionModel(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"no preprocessor_config\.json"):
        build_towers(with_tower(tmp_path), [], 0)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    CLIPImageProcessor(image_mean=list(mean), image_std=list(std)).save_pretrained(tmp_path)
    encoder = build_towers(with_tower(tmp_path), [], 0)
    assert (encoder.description.image_mean, encoder.description.image_std) == (mean, std)
    assert encoder.embed_images(torch.zeros(1, 3, 16, 16)).shape == (1, encoder.description.dimension)
