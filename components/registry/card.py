"""The model card: what a version is, what it was made from, how good it is, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from components.corpus.manifest import Manifest
from components.scores import Scores

TRAINED, EXPORTED = ("teacher", "student"), "onnx-"
GROUPS = ("overall", "IND", "OOD", "classification", "vqa", "retrieval", "grounding")


def model_card(
    name: str,
    variant: str,
    scores: Mapping[str, Scores],
    manifest: Manifest,
    parameters: Mapping[str, Any],
    lineage: Mapping[str, Any],
    choice: str = "",
) -> str:
    """Returns the card as Markdown.

    `scores` are those of each model by its name, of which `onnx-VARIANT` is the shipped one; `lineage` holds the facts
    that are known when the card is written (commit, DVC hash of the data), each printed as it is called. `choice` is
    the table of the exported variants, where they were measured.
    """
    shipped = scores[EXPORTED + variant]
    return "\n\n".join(
        (
            f"# {name}",
            f"A multimodal embedding model: text, an image, or both become one vector of "
            f"{shipped.model.dimension} numbers, so that what belongs together lies close. It is a student of "
            f"{scores['student'].model.parameters:,} parameters, distilled from a teacher of "
            f"{scores['teacher'].model.parameters:,}, exported to ONNX ({variant}).",
            "## Intended use\n\nSearch and recommendation over text and images like those of the data below: names to "
            "images, images to names, classification by name, questions about an image, finding the named object. "
            "Vectors have length 1 and are compared by their dot product; the leading part of a vector, normalised "
            "again, is a smaller embedding.",
            f"## Languages\n\n{_languages(manifest)}",
            f"## Data\n\n{_data(manifest)}",
            f"## Scores\n\nhit@1 in percent on the evaluation sets of data set `{shipped.dataset_digest}`, scorer "
            f"{shipped.scorer}, prompts `{shipped.prompts}`. IND: training has seen others of its kind; OOD: it has "
            f"not.\n\n{_score_table(scores)}",
            f"### By evaluation set\n\n{_task_table(shipped, scores['teacher'])}",
            *_choice(choice),
            "## Limits\n\n"
            "* Good on what resembles its data; the OOD column shows how it falls off. Nothing else was measured.\n"
            "* It knows no more facts than its data: no reading of text in images, no people, places or events.\n"
            "* Its similarities are for ranking; they are no probabilities, and do not compare between versions.\n"
            "* It was not examined for bias; do not use it to judge people.",
            f"## Where it comes from\n\n{_facts({**lineage, 'model fingerprint': shipped.model.fingerprint})}",
            f"## Parameters\n\n```yaml\n{yaml.safe_dump(dict(parameters), sort_keys=True).rstrip()}\n```\n",
        )
    )


def _choice(table: str) -> list[str]:
    introduction = (
        "Measured where the model was exported, on the dev split; *same at k* is the share of the k nearest items that "
        "are those of fp32."
    )
    return [f"## Variants\n\n{introduction}\n\n{table}"] if table else []


def _languages(manifest: Manifest) -> str:
    if "trained_languages" not in manifest.corpus:
        return "Not recorded by this data source; those of the data below."
    trained, unseen = (", ".join(manifest.corpus[key]) for key in ("trained_languages", "unseen_languages"))
    return f"Trained on names in: {trained}. Scored, never trained on: {unseen}. (CLDR codes.)"


def _data(manifest: Manifest) -> str:
    rows = [f"| {name} | {entry.version} | `{entry.sha256}` |" for name, entry in sorted(manifest.inputs.items())]
    return (
        f"**{manifest.name}** ({manifest.source}), digest `{manifest.digest}`: {manifest.images:,} images, "
        f"{sum(manifest.tasks.train.values()):,} training rows in {len(manifest.tasks.train)} tasks, "
        f"{len(manifest.tasks.eval)} evaluation sets; {manifest.quarantined:,} rows were rejected.\n\n"
        f"Licence: {'; '.join(manifest.licence) or 'not recorded'}\n\n"
        + "\n".join(["| made from | version | SHA-256 |", "|---|---|---|", *rows])
    )


def _score_table(scores: Mapping[str, Scores]) -> str:
    models = [*TRAINED, *sorted(model for model in scores if model.startswith(EXPORTED))]
    rows = [("", *(model.replace(EXPORTED, "exported, ") for model in models)), ("---", *("---:" for _ in models))]
    for group in GROUPS:
        values = [scores[model].aggregates.get(group) for model in models]
        rows.append((group, *("-" if value is None else f"{100 * value:.1f}" for value in values)))
    rows.append(("parameters", *(f"{scores[model].model.parameters:,}" for model in models)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _task_table(shipped: Scores, teacher: Scores) -> str:
    rows = [
        f"| {name} | {task.meta_task} | {task.distribution} | {task.queries:,} | {task.candidates:,} "
        f"| {100 * teacher.tasks[name].score:.1f} | {100 * task.score:.1f} |"
        for name, task in sorted(shipped.tasks.items())
    ]
    head = "| set | meta-task | | queries | candidates | teacher | shipped |\n|---|---|---|---:|---:|---:|---:|\n"
    return head + "\n".join(rows)


def _facts(facts: Mapping[str, Any]) -> str:
    known = {name.replace("_", " "): value for name, value in sorted(facts.items()) if value is not None}
    return "\n".join(f"* {name}: `{value}`" for name, value in known.items())
