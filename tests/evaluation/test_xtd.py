"""XTD in its published layout, made small."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.corpus import Item
from components.errors import DataInvalid, EmbedlineError, UsageError
from components.evaluation import evaluate
from components.evaluation.any_model import Questions, find_suite
from components.evaluation.probes import probe
from components.evaluation.xtd import xtd_suite
from components.scores import Model
from tests.evaluation.conftest import CONFIG, HashEmbedder, write_images


@pytest.fixture
def xtd(tmp_path: Path) -> Path:
    """The published layout in small: captions in three folders, images in two; two captions of one language alike."""
    folder = tmp_path / "xtd"
    names = [f"COCO_{'train' if number < 20 else 'val'}2014_{number:012}.jpg" for number in range(30)]
    write_images(folder / "coco" / "train2014", names[:20])
    write_images(folder / "coco" / "val2014", names[20:])
    captions = {
        "MIC/test_1kcaptions_en": [f"an image {number}" for number in range(30)],
        "STAIR/test_1kcaptions_jp": [f"写真\u2028{number}" for number in range(30)],
        "XTD10/test_1kcaptions_es": [f"una foto {number // 2}" for number in range(30)],
        "XTD10/test_image_names": names,
    }
    for name, lines in captions.items():
        (folder / f"{name}.txt").parent.mkdir(exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_xtd_is_scored_as_by_sorting(xtd: Path, tmp_path: Path) -> None:
    """Recall@10, which the paper reports, by sorting all candidates of each caption."""
    embedder = HashEmbedder()
    model = Model("model", embedder.name, embedder.dimension, 7)
    suite = xtd_suite(xtd)
    scores = evaluate(embedder, model, suite, CONFIG, tmp_path / "cache", lambda _: None)
    numbers = probe("multilingual").measure(suite, scores, {})
    names = (xtd / "XTD10/test_image_names.txt").read_text().split()
    images = embedder.encode([Item(image=next(xtd.rglob(name))) for name in names])
    for file in xtd.rglob("test_1kcaptions_*.txt"):
        texts = embedder.encode([Item(line) for line in file.read_text(encoding="utf-8").strip("\n").split("\n")])
        best = np.argsort(-(texts @ images.T), axis=1)[:, :10]
        expected = (best == np.arange(30)[:, None]).any(axis=1).astype(float)
        language = file.stem[-2:]
        assert scores.tasks[language].values == pytest.approx(expected)
        assert numbers[f"score, {language}"] == pytest.approx(expected.mean())
    assert len(set(numbers.values())) > 3 and scores.tasks["es"].metric == "recall@10"
    assert numbers.keys() & {"mean score, trained languages", "mean score, unseen languages"} == set()
    assert numbers["mean gap to English, all languages"] == pytest.approx(
        np.mean([numbers["score, en"] - numbers[f"score, {language}"] for language in ("jp", "es")])
    )


def test_xtd_in_another_place_is_the_same_and_with_another_caption_is_not(xtd: Path, tmp_path: Path) -> None:
    first = xtd_suite(xtd)
    copied = Path(shutil.copytree(xtd, tmp_path / "copy"))
    assert xtd_suite(copied).digest == first.digest
    captions = copied / "MIC/test_1kcaptions_en.txt"
    captions.write_text(captions.read_text().replace("image 3", "image three"))
    assert xtd_suite(copied).digest != first.digest


def lose_english(xtd: Path) -> None:
    shutil.rmtree(xtd / "MIC")


def give_a_language_twice(xtd: Path) -> None:
    shutil.copy(xtd / "MIC/test_1kcaptions_en.txt", xtd / "STAIR")


def lose_a_caption(xtd: Path) -> None:
    file = xtd / "XTD10/test_1kcaptions_es.txt"
    file.write_text(file.read_text().partition("\n")[2])


def empty_a_caption(xtd: Path) -> None:
    file = xtd / "XTD10/test_1kcaptions_es.txt"
    file.write_text(file.read_text().replace("una foto 3\n", "\n"))


def garble_a_caption(xtd: Path) -> None:
    (xtd / "STAIR/test_1kcaptions_jp.txt").write_bytes("写真\n".encode("shift-jis") * 30)


def lose_the_names(xtd: Path) -> None:
    (xtd / "XTD10/test_image_names.txt").unlink()


def name_a_image_twice(xtd: Path) -> None:
    file = xtd / "XTD10/test_image_names.txt"
    file.write_text(file.read_text().replace("000000000001", "000000000000"))


def lose_a_image(xtd: Path) -> None:
    next(xtd.rglob("*_000000000007.jpg")).unlink()


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lose_english, UsageError, "en among them"),
        (give_a_language_twice, UsageError, "one test_1kcaptions_LANGUAGE.txt for each language"),
        (lose_a_caption, DataInvalid, r"_es\.txt: 29 captions of 30 images"),
        (empty_a_caption, DataInvalid, r"_es\.txt: line 7 is empty"),
        (garble_a_caption, DataInvalid, r"_jp\.txt cannot be read"),
        (lose_the_names, DataInvalid, r"test_image_names\.txt cannot be read"),
        (name_a_image_twice, DataInvalid, "names an image twice"),
        (lose_a_image, DataInvalid, "1 of 30 images are missing, the first is COCO_train2014_000000000007.jpg"),
    ],
)
def test_xtd_that_is_not_whole_is_refused(
    xtd: Path, spoil: Callable[[Path], None], kind: type[EmbedlineError], message: str
) -> None:
    xtd_suite(xtd)
    spoil(xtd)
    with pytest.raises(kind, match=message) as caught:
        xtd_suite(xtd)
    assert caught.value.remedy


def test_it_is_a_suite_by_name(xtd: Path) -> None:
    assert find_suite(Questions("xtd", xtd)).digest == xtd_suite(xtd).digest
    assert [each.name for each in find_suite(Questions("xtd", xtd, ["jp"])).sets] == ["jp"]
    with pytest.raises(UsageError, match="xtd needs its files"):
        find_suite(Questions("xtd"))
    with pytest.raises(UsageError, match="xtd takes no --backbone"):
        find_suite(Questions("xtd", xtd, backbone="qwen2_vl"))
