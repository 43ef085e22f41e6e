from statistics import fmean

import pytest

from components.evaluation.benchmark import read_benchmark
from components.evaluation.reports.published import published

MODELS = ["CLIP", "OpenCLIP", "SigLIP", "BLIP2", "MagicLens", "E5-V", "UniIR", "VLM2Vec"]
MEANS = {
    "CLIP": {"classification": 42.8, "vqa": 9.1, "retrieval": 53.0, "grounding": 51.8, "IND": 37.1, "OOD": 38.7},
    "OpenCLIP": {"classification": 47.8, "vqa": 10.9, "retrieval": 52.3, "grounding": 53.3, "IND": 39.3, "OOD": 40.2},
    "MagicLens": {"classification": 38.8, "vqa": 8.3, "retrieval": 35.4, "grounding": 26.0, "IND": 31.0, "OOD": 23.7},
    "E5-V": {"classification": 21.8, "vqa": 4.9, "retrieval": 11.5, "grounding": 19.0, "IND": 14.9, "OOD": 11.5},
}
"""In percent, from the figure of means that VLM2Vec publishes apart from its figure of single sets."""


def test_every_model_has_every_set() -> None:
    scores = published()
    assert list(scores) == MODELS
    for sets in scores.values():
        assert list(sets) == list(read_benchmark("mmeb-v1").tasks)
        assert all(0 < score < 1 for score in sets.values())


def test_scores_are_shares() -> None:
    assert published()["CLIP"]["ImageNet-1K"] == pytest.approx(0.558)
    assert published()["VLM2Vec"]["Visual7W-Pointing"] == pytest.approx(0.909)


@pytest.mark.parametrize("model", MEANS)
def test_means_over_our_groups_are_those_that_were_published(model: str) -> None:
    tasks, scores = read_benchmark("mmeb-v1").tasks, published()[model]
    for group, expected in MEANS[model].items():
        members = [scores[name] for name, task in tasks.items() if group in (task.meta_task, task.distribution)]
        assert 100 * fmean(members) == pytest.approx(expected, abs=0.1), group


def test_a_set_in_the_wrong_group_would_show() -> None:
    tasks, scores = read_benchmark("mmeb-v1").tasks, published()["CLIP"]
    members = [scores[name] for name, task in tasks.items() if task.meta_task == "grounding" or name == "OK-VQA"]
    assert 100 * fmean(members) != pytest.approx(MEANS["CLIP"]["grounding"], abs=0.1)
