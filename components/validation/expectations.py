"""What must hold, as Great Expectations suites built in code, and their verdict.

A critical expectation fails when a model would be trained or scored wrongly; a warning asks a human to look.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.expectations.core.expect_column_pair_values_to_be_equal import ExpectColumnPairValuesToBeEqual
from great_expectations.expectations.core.expect_column_values_to_be_between import ExpectColumnValuesToBeBetween
from great_expectations.expectations.core.expect_column_values_to_be_null import ExpectColumnValuesToBeNull
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metadata_types import FailureSeverity

from components.errors import EmbedlineError
from components.validation.config import Validation
from components.validation.findings import Finding

CRITICAL, WARNING = FailureSeverity.CRITICAL, FailureSeverity.WARNING
MAX_UNKNOWN_SHARE = 0.01
MAX_PLACES = 20


def suites(config: Validation) -> dict[str, list[Expectation]]:
    """Returns the expectations on each frame of the measurements, by the frame's name."""
    duplicates = f"{config.max_duplicate_fraction:.1%}"
    return {
        "dataset": [
            _between("enough training rows", "training_rows", config.min_train_rows, None, CRITICAL,
                     f"the training tasks together have at least {config.min_train_rows:,} rows"),
            _between("enough evaluation sets", "evaluation_sets", config.min_eval_sets, None, CRITICAL,
                     f"the evaluation sets that have rows number at least {config.min_eval_sets}"),
        ],
        "tasks": [
            _null("schema", "schema_fault", "each file has MMEB's columns with their types"),
            ExpectColumnPairValuesToBeEqual(
                column_A="rows", column_B="rows_in_manifest", severity=CRITICAL,
                meta=_meta("counts", "each task has as many rows as the manifest counts")),
            _between("no empty task", "rows", 1, None, CRITICAL, "each task has at least one row"),
            _zero("no nulls", "nulls", CRITICAL, "absent content is the empty string, never null"),
            _zero("no empty sides", "empty_sides", CRITICAL,
                  "queries, positives and candidates have a text or an image"),
            _zero("candidate columns agree", "uneven_candidates", CRITICAL,
                  "candidates have as many texts as image paths"),
            _zero("labels within range", "wrong_labels", CRITICAL,
                  "each query has a relevant candidate, and labels are positions of candidates"),
            _zero("no leakage", "leaked", CRITICAL,
                  "no pair of query and positive of dev occurs in train, and none of eval or multilingual in either; "
                  "images count by bytes"),
            _between("few duplicates", "duplicate_fraction", 0, config.max_duplicate_fraction, CRITICAL,
                     f"at most {duplicates} of a task's rows repeat an earlier one"),
            _between("truth is unambiguous", "ambiguous_fraction", 0, config.max_duplicate_fraction, CRITICAL,
                     f"in at most {duplicates} of a task's rows an irrelevant candidate is a copy of a relevant one"),
            _zero("candidates are distinct", "repeated_candidates", WARNING, "no row offers the same content twice"),
            _between("text length", "longest_text", 0, config.max_text_length, WARNING,
                     f"texts have at most {config.max_text_length:,} characters"),
            _between("language mix", "unknown_fraction", 0, MAX_UNKNOWN_SHARE, WARNING,
                     f"at most {MAX_UNKNOWN_SHARE:.0%} of the letters belong to no script, as wrongly decoded ones do"),
            _between("class balance", "largest_class_fraction", 0, config.max_class_fraction, WARNING,
                     f"no answer is the right one in more than {config.max_class_fraction:.0%} of a task's rows"),
        ],
        "images": [
            _null("images readable", "problem", "each image that a row names is there and can be decoded"),
            _between("images not too small", "shortest_side", config.min_image_side, None, CRITICAL,
                     f"both sides have at least {config.min_image_side} pixels"),
            _between("images not too large", "longest_side", None, config.max_image_side, CRITICAL,
                     f"both sides have at most {config.max_image_side:,} pixels"),
            _between("image aspect", "aspect", 1, config.max_aspect, WARNING,
                     f"the longer side is at most {config.max_aspect:g} times the shorter"),
        ],
    }  # fmt: skip


def judge(frames: Mapping[str, pd.DataFrame], built: Mapping[str, list[Expectation]]) -> list[Finding]:
    """Returns a finding for each expectation, in the order in which they were built.

    Raises `EmbedlineError` when there is nothing to evaluate, when fewer expectations were evaluated than built, or
    when one could not be evaluated: such a validation says nothing about the data.
    """
    if not built:
        raise EmbedlineError("validation: no suite was built", "Correct the suites in components/validation.")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}  # type: ignore[assignment]
    source = context.data_sources.add_pandas("embedline")
    findings = []
    for name, expectations in built.items():
        batches = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        suite = context.suites.add(gx.ExpectationSuite(name, expectations=expectations))
        outcome = batches.get_batch({"dataframe": frames[name]}).validate(suite, result_format="COMPLETE")
        _require_complete(name, outcome, len(expectations))
        verdicts = {verdict.expectation_config.meta["name"]: verdict for verdict in outcome.results}  # type: ignore
        findings += [_finding(name, frames[name], verdicts[_name(expectation)]) for expectation in expectations]
    return findings


def _between(
    name: str, column: str, least: float | None, most: float | None, severity: FailureSeverity, meaning: str
) -> Expectation:
    meta = _meta(name, meaning)
    return ExpectColumnValuesToBeBetween(column=column, min_value=least, max_value=most, severity=severity, meta=meta)


def _zero(name: str, column: str, severity: FailureSeverity, meaning: str) -> Expectation:
    return _between(name, column, 0, 0, severity, meaning)


def _null(name: str, column: str, meaning: str) -> Expectation:
    return ExpectColumnValuesToBeNull(column=column, severity=CRITICAL, meta=_meta(name, meaning))


def _meta(name: str, meaning: str) -> dict[str, str]:
    return {"name": name, "meaning": meaning}


def _name(expectation: Expectation) -> str:
    return str((expectation.meta or {})["name"])


def _require_complete(suite: str, outcome: Any, built: int) -> None:
    evaluated = outcome.statistics["evaluated_expectations"]
    if not evaluated or evaluated != built:
        raise EmbedlineError(
            f"validation: {evaluated} of {built} expectations of suite {suite!r} were evaluated",
            "A validation that checks less than it should is none; correct the suites in components/validation.",
        )
    for verdict in outcome.results:
        for exception in _exceptions(verdict.exception_info):
            raise EmbedlineError(
                f"validation: {verdict.expectation_config.meta['name']!r} could not be evaluated: {exception}",
                "Correct the expectation, or the frame that it judges, in components/validation.",
            )


def _exceptions(info: dict[str, Any]) -> Iterator[str]:
    for record in [info] if "raised_exception" in info else info.values():
        if record["raised_exception"]:
            yield record["exception_message"]


def _finding(suite: str, frame: pd.DataFrame, verdict: Any) -> Finding:
    expectation = verdict.expectation_config
    broken = [] if verdict.success else verdict.result["unexpected_index_list"]
    judged = [expectation.kwargs[key] for key in ("column", "column_A", "column_B") if key in expectation.kwargs]
    place = [column for column in ("split", "task", "path") if column in frame]
    rows = frame.loc[broken[:MAX_PLACES], place + judged]
    return Finding(
        name=expectation.meta["name"],
        suite=suite,
        severity=expectation.severity.value,
        meaning=expectation.meta["meaning"],
        passed=bool(verdict.success),
        found=len(broken),
        places=[{str(column): _plain(value) for column, value in row.items()} for row in rows.to_dict("records")],
    )


def _plain(value: Any) -> Any:
    """Returns a cell of a frame as JSON has it: whole numbers without a fraction, None for NaN."""
    if not isinstance(value, float):
        return value
    return None if isnan(value) else int(value) if value.is_integer() else round(value, 4)
