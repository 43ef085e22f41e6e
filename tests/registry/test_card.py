from collections.abc import Callable

from components.corpus.manifest import EvaluationTask, Input, Manifest, Tasks
from components.registry import model_card
from components.scores import Scores


def test_the_card_tells_what_it_is_from_what_and_how_good(make_scores: Callable[..., Scores]) -> None:
    manifest = Manifest(
        name="emoji",
        source="emoji",
        licence=["OFL-1.1", "Unicode-3.0"],
        inputs={"fonts-noto-color-emoji": Input(version="2.051", sha256="f" * 64)},
        corpus={"trained_languages": ["en", "de"], "unseen_languages": ["fi"]},
        seed=0,
        tasks=Tasks(
            train={"names": 1234},
            eval={"names": EvaluationTask(rows=200, candidates=100, meta_task="retrieval", distribution="IND")},
        ),
        images=4321,
        quarantined=2,
        digest="d" * 64,
    )
    scores = {name: make_scores(name, share) for name, share in (("teacher", 0.6), ("student", 0.55))}
    scores |= {"onnx-fp32": make_scores("fp32", 0.55), "onnx-int8": make_scores("shipped", 0.5)}
    card = model_card(
        "Embedline emoji", "int8", scores, manifest, {"seed": 1}, {"git_commit": "c0ffee", "flow_run": None}
    )
    assert "| overall | 60.0 | 55.0 | 55.0 | 50.0 |" in card and "| OOD | 60.0 |" in card
    assert "| names | retrieval | IND | 200 | 100 | 60.0 | 50.0 |" in card
    assert "Trained on names in: en, de. Scored, never trained on: fi." in card
    assert "OFL-1.1; Unicode-3.0" in card and f"`{'f' * 64}`" in card and "4,321 images" in card
    assert "* git commit: `c0ffee`" in card and "* model fingerprint: `shipped`" in card and "flow run" not in card
    assert "seed: 1" in card and "None" not in card
