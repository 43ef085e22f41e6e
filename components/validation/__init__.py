"""Is this data set fit to train on: expectations on its rows and images, and a report of what was found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.corpus.manifest import Manifest
from components.errors import DataInvalid
from components.files import atomic_directory
from components.validation.config import Validation
from components.validation.findings import Finding, Result
from components.workspace import STATE

if TYPE_CHECKING:
    from components.validation.measure import Measurements

__all__ = ["Finding", "Result", "run"]

RESULT, PAGE = "result.json", "index.html"
FAILED = STATE / "validation"
PLACES_IN_MESSAGE = 3


def run(config: Validation, data: Path, output: Path, failed: Path = FAILED) -> Result:
    """Validates `data/` and writes `result.json` and `index.html` to the folder `output`; returns the result.

    Raises `DataInvalid` when a critical expectation fails. The report is then in the folder `failed` instead, because a
    stage that fails must not leave its output. Raises as `measure` and `judge` do.
    """
    from components.validation.expectations import judge, suites  # Great Expectations takes seconds to import
    from components.validation.measure import measure

    measured = measure(data)
    findings = judge(measured.frames, suites(config))
    broken = [finding for finding in findings if not finding.passed]
    result = Result(len(findings), broken, _metrics(measured, findings))
    report = _report(config, Manifest.read(data), measured, findings, result)
    shutil.rmtree(failed, ignore_errors=True)
    _write(report, failed if result.critical else output)
    if result.critical:
        raise DataInvalid(
            "\n".join(
                [
                    f"{data}: {len(result.critical)} critical of {result.evaluated} expectations failed",
                    *(f"  {_line(finding)}" for finding in result.critical),
                ]
            ),
            f"See {failed / PAGE}; correct the source and run `embedline ingest`, or params.yaml: validation.",
        )
    return result


def _metrics(measured: Measurements, findings: list[Finding]) -> dict[str, float]:
    tasks = measured.tasks
    rows = tasks.groupby("split")["rows"].sum()
    failed = [finding.severity for finding in findings if not finding.passed]
    return {
        "expectations_evaluated": len(findings),
        "expectations_failed_critical": failed.count("critical"),
        "expectations_failed_warning": failed.count("warning"),
        **{f"rows_{split}": float(rows.get(split, 0)) for split in ("train", "dev", "eval")},
        "evaluation_sets": float(measured.dataset["evaluation_sets"].iloc[0]),
        "images": len(measured.images),
        "images_unreadable": float(measured.images["problem"].notna().sum()),
        "rows_leaked": float(tasks["leaked"].sum()),
        "rows_with_repeated_candidates": float(tasks["repeated_candidates"].sum()),
        "duplicate_share_max": float(tasks["duplicate_fraction"].fillna(0).max()) if len(tasks) else 0.0,
    }


def _report(
    config: Validation, manifest: Manifest, measured: Measurements, findings: list[Finding], result: Result
) -> dict[str, Any]:
    rows = measured.tasks.astype(object).where(measured.tasks.notna(), None).to_dict("records")
    return {
        "passed": not result.critical,
        "name": manifest.name,
        "data_digest": manifest.digest,
        "quarantined": manifest.quarantined,
        "limits": config.model_dump(),
        "metrics": result.metrics,
        "findings": [vars(finding) for finding in findings],
        "tasks": [
            row | {"scripts": measured.scripts.get((row["split"], row["task"]), {}),
                   "rows_at_fault": measured.examples.get((row["split"], row["task"]), {})}
            for row in rows
        ],
    }  # fmt: skip


def _write(report: dict[str, Any], place: Path) -> None:
    from components.validation.page import render

    with atomic_directory(place) as partial:
        (partial / RESULT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (partial / PAGE).write_text(render(report), encoding="utf-8")


def _line(finding: Finding) -> str:
    shown = finding.places[:PLACES_IN_MESSAGE]
    places = [", ".join(f"{column} {value}" for column, value in place.items()) for place in shown]
    more = f"; {finding.found - PLACES_IN_MESSAGE} more" if finding.found > PLACES_IN_MESSAGE else ""
    return f"{finding.name} ({finding.meaning}): {'; '.join(places)}{more}"
