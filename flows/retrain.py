"""The round: ingest, the stages of `dvc.yaml`, then register, compare, try on Triton, promote."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from components import config as configuration
from components import lineage
from components.backends.directory import find_directory
from components.config import Config
from components.corpus import Manifest
from components.corpus.columns import row_values
from components.embedder import OnnxEmbedder, fingerprint
from components.errors import EmbedlineError, Refused, UsageError
from components.evaluation import evaluate, read_suite
from components.export import read_bundle, served_variant
from components.export.bundle import require_scored
from components.markdown import as_html
from components.registry import (
    Verdict,
    ancestry,
    compare,
    evidence,
    infrastructure,
    models,
    promotion,
    tracking,
)
from components.registry.card import BLESSED, Blessed
from components.registry.gate import Columns
from components.registry.tracking import Run, Tracking
from components.scores import Model, Scores
from components.stages import STAGES
from components.stages.inputs import declare
from components.stages.package import card_of
from components.training.config import Whole
from components.workspace import ARTIFACTS, BUNDLE, DATA, ONNX, SCORES, STATE, VECTORS
from flows.approve import ask_for_approval
from flows.ingest import collect_feedback, ingest_data
from serving.evidence import measure
from serving.roles import follow_roles

TRIAL = STATE / "trial"


@dataclass(frozen=True)
class Outcome:
    """How a round ended: the version, who plays which role now, and which stages were not up to date."""

    version: str
    roles: Mapping[str, str | None]
    repeated: tuple[str, ...]


def _may_pass(_task: object, _run: object, state: Any) -> bool:
    """Whether another try may help: what a gate refused or a user wrote stays as it is."""
    return not isinstance(state.result(raise_on_failure=False), Refused | UsageError)


@flow(name="retrain", description="One round: from the data set to a promoted version on a running server.")
def retrain(parameters: Path = Path(configuration.PARAMETERS), reason: str = "", feedback: bool = False) -> Outcome:
    """Runs one round in the present folder and returns its outcome; the ledger keeps the `reason`. With `feedback` the
    pairs that users have labelled join the training data.

    Raises `DataInvalid`, `Refused` or another `EmbedlineError` with what to do; whatever was finished stays.
    """
    config = configuration.read(parameters)
    require_starting_models(config)
    require_exportable_student(config)
    require_openlineage(config)
    root = Path()
    with lineage.lock(root):
        for line in lineage.prepare(root):
            get_run_logger().info(line)
        pull(config)
        if feedback:
            collect_feedback(config)
        data_hash = ingest_data(config)
        tracked = tracking.prepare(root)
        tags = {
            "data": data_hash,
            "git_commit": lineage.git_state(root).commit or "none",
            "flow_run": str(flow_run.get_id()),
            "reason": reason,
        }
        round_ = tracking.start_round(tracked, config.model_dump(), tags)
        succeeded = False
        try:
            round_.log_dataset(data_hash, "round")
            repeated = run_stages(config, round_)
            push(config)
            version = register(round_, config, tags)
            write_lineage(config, round_, version)
            roles = bless(config, tracked, round_, version, reason)
            succeeded = True
        finally:
            tracking.end_round(round_, succeeded=succeeded)
            send_events(config, round_)
        return Outcome(version, roles, repeated)


def require_starting_models(config: Config) -> None:
    """Raises `UsageError`, before anything is built, if a model that a training starts from is nowhere."""
    for name in {*config.teacher.starting_models, *config.distillation.starting_models}:
        find_directory(name)


def require_exportable_student(config: Config) -> None:
    """Raises `UsageError`, before anything is trained, if the student cannot be exported."""
    if isinstance(config.distillation.backbone, Whole):
        from components.export.student import require_exportable  # torch takes seconds

        require_exportable(config.distillation.backbone.model)


def require_openlineage(config: Config) -> None:
    """Raises `UsageError`, before anything is trained, if events are to be sent that cannot be made."""
    if config.registry.openlineage and find_spec("openlineage") is None:
        raise UsageError(
            "registry.openlineage needs a package that is missing: openlineage-python",
            "Run `pip install 'embedline[openlineage]'`.",
        )


def send_events(config: Config, round_: Run) -> None:
    """Sends what a round that has ended did to the collector of OpenLineage events, where one is configured; one that
    does not take them is logged and changes nothing about the round."""
    if url := config.registry.openlineage:
        from components.registry import openlineage  # the package is an extra

        try:
            openlineage.send(url, openlineage.events(round_.tracking, round_.run_id, lineage.locked_stages(Path())))
        except EmbedlineError as error:
            get_run_logger().warning("%s. %s", error.problem, error.remedy)


def run_stages(config: Config, round_: Run) -> tuple[str, ...]:
    """Runs what DVC finds changed, and everything after it; returns the names of the stages that ran."""
    for name, paths in declare(Path(), config).items():
        get_run_logger().info("dvc.yaml: %s now depends on %s too", name, ", ".join(paths))
    changed = lineage.changed_stages(Path())
    repeated: list[str] = []
    for name in STAGES:
        if name in changed or repeated:
            if run_stage.with_options(name=name)(round_, name):
                repeated.append(name)
        else:
            reuse_stage.with_options(name=f"{name} (up to date)")(round_, name)
    return tuple(repeated)


@task(cache_policy=NO_CACHE, persist_result=False)
def run_stage(round_: Run, name: str) -> bool:
    """Brings one stage up to date by `dvc repro`; returns whether it ran."""
    logger = get_run_logger()
    logger.info("started")
    with tracking.stage_run(round_, name) as run:
        return lineage.reproduce(Path(), name, {"MLFLOW_RUN_ID": run.run_id}, logger.info).ran


@task(cache_policy=NO_CACHE, persist_result=False)
def reuse_stage(round_: Run, name: str) -> None:
    """Records that the outputs of an earlier run are still right."""
    with tracking.stage_run(round_, name):
        pass


REACHES_OUT: dict[str, Any] = {
    "retries": 2, "retry_delay_seconds": 10, "cache_policy": NO_CACHE, "persist_result": False,
}  # fmt: skip


@task(name="pull", **REACHES_OUT)
def pull(config: Config) -> None:
    """Gets from DVC's remote, where one is configured, what is not in this workspace."""
    if config.storage.remote and (found := lineage.pull(Path(), config.storage.remote)):
        get_run_logger().info("from %s: %s", config.storage.remote.url, ", ".join(found))


@task(name="push", **REACHES_OUT)
def push(config: Config) -> None:
    """Leaves data and artifacts with DVC's remote, before a version is registered that was made of them."""
    if config.storage.remote:
        lineage.push(Path(), config.storage.remote)


@task(
    name="register",
    retries=2,
    retry_delay_seconds=2,
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def register(round_: Run, config: Config, tags: Mapping[str, str]) -> str:
    """Registers the bundle and nominates it as challenger unless it is champion; returns its version."""
    scores = served_scores(config)
    require_scored(BUNDLE, scores.model.fingerprint)
    version = models.register(round_, BUNDLE, scores, tags)
    promotion.nominate(round_.tracking, version)
    return version


def bless(config: Config, tracked: Tracking, round_: Run, version: str, reason: str) -> Mapping[str, str | None]:
    """Compares, tries and promotes a challenger; a running server follows the promotion and nothing before it."""
    champion = models.role(tracked, "champion")
    if champion:  # the round that promoted it may have been killed before a server followed
        follow_roles(STATE, tracked, config.serving.servers)
    if champion == version:
        return models.roles(tracked)
    quality = compare_with_champion(config, tracked, champion)
    publish(quality)
    quality.require()
    checks = try_on_triton(config, tracked, champion)
    served = read_bundle(BUNDLE).fingerprint
    blessing = infrastructure(served, checks, config.promotion, served_as(tracked, champion))
    round_.log_metrics({name: value for name, value in checks.items() if isinstance(value, int | float)})
    publish_card(config, round_, version, quality, checks)
    blessing.require()
    evidence.keep(tracked, version, evidence.Evidence(served_scores(config), quality, blessing))
    if config.promotion.approval == "required":
        ask_for_approval(tracked, version, quality, blessing)
        get_run_logger().info("version %s has passed both gates and waits for `embedline approve`", version)
        return models.roles(tracked)
    return promote(config, tracked, version, quality, blessing, reason)


@task(name="compare with the champion", cache_policy=NO_CACHE, persist_result=False)
def compare_with_champion(config: Config, tracked: Tracking, champion: str | None) -> Verdict:
    """Returns the quality verdict; the champion answers the very queries that the challenger answered.

    Its scores have the fingerprint that the registry knows it by.
    """
    challenger = served_scores(config)
    sets = Manifest.read(DATA).tasks.eval
    if champion is None:
        return compare(challenger, None, config.promotion, sets)
    return compare(challenger, score_version(config, tracked, champion), config.promotion, sets, sliced_rows(config))


def sliced_rows(config: Config) -> dict[str, Columns]:
    """Returns the columns that slices ask for, by set."""
    asked = {column for each in config.promotion.slices.values() for column in each.where or {}}
    return {name: row_values(DATA, name, asked) for name in Manifest.read(DATA).tasks.eval} if asked else {}


def score_version(config: Config, tracked: Tracking, champion: str) -> Scores:
    """Returns the scores of a version on the present data.

    It answers by the code in its own bundle, which is what is served, so its vectors are kept under all of that; its
    scores have the fingerprint that the registry knows it by.
    """
    bundle = models.fetched(tracked, champion)
    identity = models.facts(tracked, champion)["model_fingerprint"]
    embedder = OnnxEmbedder(bundle / "version", config.evaluation.batch_size)
    served = Model(f"champion {champion}", fingerprint(bundle / "version"), embedder.dimension, None)
    suite = read_suite(DATA, cache=VECTORS)
    scores = evaluate(embedder, served, suite, config.evaluation, VECTORS, lambda _: None)
    return dataclasses.replace(scores, model=dataclasses.replace(served, fingerprint=identity))


@task(
    name="try on Triton",
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=_may_pass,
    cache_policy=NO_CACHE,
    persist_result=False,
)
def try_on_triton(config: Config, tracked: Tracking, champion: str | None) -> dict[str, Any]:
    """Returns what was measured of the bundle on a server of its own, so that no user is answered by it yet; the
    champion's own bundle is asked beside it by turns."""
    require_scored(BUNDLE, served_scores(config).model.fingerprint)
    measured = measured_beside(config, tracked, BUNDLE, champion)
    parity = read_json(ONNX / "parity.json")[served_variant(config.serving, ONNX)]
    return {**measured, "parity_cosine": parity["minimum"], "rank_agreement": parity["rank_agreement_10"]}


def measured_beside(config: Config, tracked: Tracking, bundle: Path, champion: str | None) -> dict[str, Any]:
    """Returns what was measured of a bundle on a server of its own, by turns with the champion's, if there is one."""
    beside = models.fetched(tracked, champion) if champion else None
    limits = config.promotion
    return measure(TRIAL, bundle, beside, config.serving.startup_seconds, limits.concurrency, limits.confidence)


def served_as(tracked: Tracking, champion: str | None) -> str | None:
    """Returns the fingerprint of the champion's bundle, None where there is no champion."""
    return models.facts(tracked, champion)["fingerprint"] if champion else None


@task(name="publish the model card", cache_policy=NO_CACHE, persist_result=False)
def publish_card(config: Config, round_: Run, version: str, quality: Verdict, checks: Mapping[str, Any]) -> None:
    """Leaves the model card, now with the comparison, the server's figures, times and lineage, with the round in
    MLflow, and its beginning as the description of the version; the bundle keeps the card that it was packaged with."""
    costs = {stage: tracking.producer_metrics(round_.tracking, stage) for stage in STAGES}
    seconds, cpu_seconds = (
        {stage: found[name] for stage, found in costs.items() if name in found}
        for name in ("stage_seconds", "cpu_seconds")
    )
    known = read_json(ARTIFACTS / lineage.LINEAGE)
    facts = {name: value for name, value in known.items() if isinstance(value, str | bool)}
    card = card_of(config, facts, Blessed(quality, checks, seconds, cpu_seconds))
    with tempfile.TemporaryDirectory() as folder:
        for ending, text in (("md", card), ("html", as_html(card))):
            path = Path(folder, f"{BLESSED}.{ending}")
            path.write_text(text, encoding="utf-8")
            round_.log_file(path)
    models.describe(round_.tracking, version, card, quality)


@task(name="promote", cache_policy=NO_CACHE, persist_result=False)
def promote(
    config: Config, tracked: Tracking, version: str, quality: Verdict, blessing: Verdict, reason: str
) -> Mapping[str, str | None]:
    """Moves the aliases; from then on a running server answers with the new champion and keeps the previous one.

    Raises `Refused`, and changes nothing, unless both verdicts passed.
    """
    why = f"{reason}: {quality.sentence}" if reason else quality.sentence
    roles = promotion.promote(tracked, version, quality, blessing, why)
    follow_roles(STATE, tracked, config.serving.servers)
    return roles


@task(name="publish the scores", cache_policy=NO_CACHE, persist_result=False)
def publish(quality: Verdict) -> None:
    """Leaves the scores and the verdict as an artifact in Prefect."""
    verdict = "passed" if quality.passed else "refused: " + "; ".join(quality.reasons)
    create_table_artifact(
        [dict(row) for row in quality.table], key="scores", description=f"Quality: {verdict}. {quality.sentence}"
    )


def write_lineage(config: Config, round_: Run, version: str) -> None:
    """Writes `artifacts/lineage.json`, and keeps it with the round in MLflow, whatever the gates will say.

    Beside it go `dvc.lock` and, where the code is not that of the commit, the difference. What the round made is in its
    tags, by which `embedline lineage` finds the round again.
    """
    found = lineage.collect(Path(), config.model_dump(), round_.run_id, str(flow_run.get_id()))
    fingerprint = served_scores(config).model.fingerprint
    path = ARTIFACTS / lineage.LINEAGE
    dataclasses.replace(
        found,
        score_fingerprint=fingerprint,
        model_name=round_.tracking.model,
        model_version=version,
        triton_version=version,
    ).write(path)
    round_.log_file(path)
    round_.log_file(Path(lineage.LOCK_FILE))
    if found.git_dirty:
        with tempfile.TemporaryDirectory() as folder:
            difference = Path(folder, ancestry.DIFFERENCE)
            difference.write_bytes(lineage.uncommitted(Path()))
            round_.log_file(difference)
    round_.tag(ancestry.round_tags(version, found.git_dirty, str(found.dvc_lock_sha256), lineage.outputs(Path())))


def served_scores(config: Config) -> Scores:
    """Returns the scores of the exported variant that is served."""
    return Scores.read(SCORES / f"onnx-{served_variant(config.serving, ONNX)}.json")


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
