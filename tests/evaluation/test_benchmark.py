from collections import Counter
from pathlib import Path

import pytest
import yaml

from components.corpus.sources.mmeb import KNOWN
from components.errors import DataInvalid, UsageError
from components.evaluation import benchmark
from components.evaluation.benchmark import Task, read_benchmark
from components.evaluation.loaders import IMAGE_LAYOUTS, LOADERS
from components.evaluation.prompts import PARSERS

V1 = {
    ("classification", "IND"): "ImageNet-1K N24News HatefulMemes VOC2007 SUN397",
    ("classification", "OOD"): "Place365 ImageNet-A ImageNet-R ObjectNet Country211",
    ("vqa", "IND"): "OK-VQA A-OKVQA DocVQA InfographicsVQA ChartQA Visual7W",
    ("vqa", "OOD"): "ScienceQA VizWiz GQA TextVQA",
    ("retrieval", "IND"): "VisDial CIRR VisualNews_t2i VisualNews_i2t MSCOCO_t2i MSCOCO_i2t NIGHTS WebQA",
    ("retrieval", "OOD"): "FashionIQ Wiki-SS-NQ OVEN EDIS",
    ("grounding", "IND"): "MSCOCO",
    ("grounding", "OOD"): "RefCOCO RefCOCO-Matching Visual7W-Pointing",
}
FEWER_CANDIDATES = {
    "N24News": 24, "HatefulMemes": 2, "VOC2007": 20, "SUN397": 397, "Place365": 365, "ImageNet-R": 200,
    "ObjectNet": 313, "Country211": 211,
}  # fmt: skip
V2_QUERIES = {
    "video classification": {"K700": 1000, "SmthSmthV2": 1000, "HMDB51": 1000, "UCF101": 1000, "Breakfast": 433},
    "video vqa": {"MVBench": 4000, "Video-MME": 2700, "NExTQA": 8564, "EgoSchema": 500, "ActivityNetQA": 1000},
    "video retrieval": {"DiDeMo": 1004, "MSR-VTT": 1000, "MSVD": 670, "VATEX": 4478, "YouCook2": 3179},
    "moment retrieval": {"QVHighlight": 1083, "Charades-STA": 727, "MomentSeeker": 1602},
    "vidore v1": {
        "ViDoRe_arxivqa": 500, "ViDoRe_docvqa": 451, "ViDoRe_infovqa": 494, "ViDoRe_tabfquad": 280,
        "ViDoRe_tatdqa": 1646, "ViDoRe_shiftproject": 100, "ViDoRe_syntheticDocQA_artificial_intelligence": 100,
        "ViDoRe_syntheticDocQA_energy": 100, "ViDoRe_syntheticDocQA_government_reports": 100,
        "ViDoRe_syntheticDocQA_healthcare_industry": 100,
    },
    "vidore v2": {
        "ViDoRe_esg_reports_human_labeled_v2": 52, "ViDoRe_biomedical_lectures_v2_multilingual": 640,
        "ViDoRe_economics_reports_v2_multilingual": 232, "ViDoRe_esg_reports_v2_multilingual": 228,
    },
    "visrag": {
        "VisRAG_ArxivQA": 816, "VisRAG_ChartQA": 63, "VisRAG_MP-DocVQA": 591, "VisRAG_SlideVQA": 556,
        "VisRAG_InfoVQA": 718, "VisRAG_PlotQA": 863,
    },
    "visdoc ood": {"ViDoSeek-page": 1142, "ViDoSeek-doc": 1142, "MMLongBench-page": 838, "MMLongBench-doc": 838},
}  # fmt: skip


def images(name: str) -> dict[str, Task]:
    return {set_: task for set_, task in read_benchmark(name).tasks.items() if task.modality == "image"}


@pytest.mark.parametrize("name", ["mmeb-v1", "mmeb-v2"])
def test_the_36_sets_of_images_are_those_of_mmeb(name: str) -> None:
    tasks = images(name)
    split: dict[tuple[str, str | None], set[str]] = {}
    for set_, task in tasks.items():
        split.setdefault((task.meta_task, task.distribution), set()).add(set_)
        assert (task.queries, task.metric, task.pool) == (1000, "hit@1", "local")
        assert task.candidates == FEWER_CANDIDATES.get(set_, 1000), set_
        assert task.source and task.source.configuration == set_
    assert split == {kind: set(names.split()) for kind, names in V1.items()}
    assert Counter(task.distribution for task in tasks.values()) == {"IND": 20, "OOD": 16}
    assert Counter(task.meta_task for task in tasks.values()) == {
        "classification": 10, "vqa": 10, "retrieval": 12, "grounding": 4,
    }  # fmt: skip


def test_the_ingest_of_mmeb_knows_the_same_sets() -> None:
    tasks = read_benchmark("mmeb-v1").tasks
    assert {name: (task.meta_task, task.distribution) for name, task in tasks.items()} == KNOWN


def test_mmeb_v1_reads_the_published_rows_and_v2_the_reissue() -> None:
    for name, (layout, repository) in {
        "mmeb-v1": ("mmeb-eval", "TIGER-Lab/MMEB-eval"),
        "mmeb-v2": ("mmeb-instruct", "ziyjiang/MMEB_Test_Instruct"),
    }.items():
        for task in images(name).values():
            assert task.source
            assert (task.layout, task.source.repository, task.source.split) == (layout, repository, "test")


def test_the_78_sets_of_mmeb_v2() -> None:
    tasks = read_benchmark("mmeb-v2").tasks
    assert Counter(task.modality for task in tasks.values()) == {"image": 36, "video": 18, "visdoc": 24}
    queries: dict[str, dict[str, int]] = {}
    for name, task in tasks.items():
        if task.modality != "image":
            queries.setdefault(task.meta_task, {})[name] = task.queries
            assert task.distribution is None
            assert task.metric == {"video": "hit@1", "visdoc": "ndcg_linear@5"}[task.modality]
    assert queries == V2_QUERIES


def test_documents_share_one_pool_and_a_question_about_a_video_has_its_own() -> None:
    tasks = read_benchmark("mmeb-v2").tasks.values()
    assert {(task.layout, task.prompt, task.pool) for task in tasks if task.modality == "visdoc"} == {
        ("beir", "visdoc", "global")
    }
    pools = {(task.meta_task, task.pool) for task in tasks if task.modality == "video"}
    assert pools == {
        ("video classification", "global"), ("video classification", "local"), ("video vqa", "local"),
        ("video retrieval", "global"), ("moment retrieval", "local"),
    }  # fmt: skip
    assert read_benchmark("mmeb-v2").tasks["SmthSmthV2"].pool == "local"


@pytest.mark.parametrize("name", ["mmeb-v1", "mmeb-v2"])
def test_no_two_aggregates_share_a_name(name: str) -> None:
    tasks = read_benchmark(name).tasks.values()
    groups = [{getattr(task, key) for task in tasks} - {None} for key in ("modality", "meta_task", "distribution")]
    assert len(set.union({"overall"}, *groups)) == 1 + sum(map(len, groups))
    for meta_task in {task.meta_task for task in tasks}:
        assert len({task.modality for task in tasks if task.meta_task == meta_task}) == 1


@pytest.mark.parametrize("name", ["mmeb-v1", "mmeb-v2"])
def test_every_set_names_a_parser_and_a_layout_that_there_are(name: str) -> None:
    tasks = read_benchmark(name).tasks.values()
    assert {task.prompt for task in tasks} <= PARSERS.keys()
    assert {task.layout for task in tasks} <= {*IMAGE_LAYOUTS, *LOADERS}


@pytest.mark.parametrize("name", ["mmeb-v3", "../tables/mmeb-v1", ""])
def test_an_unknown_benchmark_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="there is no such benchmark") as refused:
        read_benchmark(name)
    assert "mmeb-v1, mmeb-v2" in refused.value.remedy


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, None),
        ({"metric": "ndcg@5"}, "ndcg@5: no such metric"),
        ({"queries": 0}, "tasks.One.queries"),
        ({"candidates": "many"}, "tasks.One.candidates"),
        ({"distribution": "both"}, "tasks.One.distribution"),
        ({"licence": "MIT"}, "tasks.One.licence"),
    ],
)
def test_a_table_is_checked(
    change: dict[str, object], named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {
        "modality": "image", "meta_task": "retrieval", "distribution": None, "queries": 3, "candidates": None,
        "metric": "hit@1", "pool": "local", "layout": "mmeb-eval", "prompt": "mmeb-eval", "source": None,
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"tasks": {"One": task | change}}))
    monkeypatch.setattr(benchmark, "TABLES", tmp_path)
    if named is None:
        assert list(read_benchmark("mine").tasks) == ["One"]
    else:
        with pytest.raises(DataInvalid, match=named):
            read_benchmark("mine")


@pytest.mark.parametrize("content", ["", "tasks: [", "sets: {}", "tasks: 3"])
def test_what_is_no_table_is_refused(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(content)
    monkeypatch.setattr(benchmark, "TABLES", tmp_path)
    with pytest.raises(DataInvalid, match=r"mine\.yaml is no table of tasks"):
        read_benchmark("mine")
