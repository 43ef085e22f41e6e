"""The model card: what a version is, what it was made from, how good it is, and what it is not for.

Its sections are those of M. Mitchell et al. (2019, Model Cards for Model Reporting), with the training, the parity of
the export, the server's figures and the lineage; in front stands the metadata that the Hugging Face hub reads. All
numbers are those of the files that they are read from, rounded where they are shown to people.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from components.corpus.manifest import Manifest
from components.scores import Scores, TaskScore

if TYPE_CHECKING:
    from components.registry.gate import Verdict

TRAINED, EXPORTED = ("teacher", "student"), "onnx-"
GROUPS = ("overall", "IND", "OOD", "classification", "vqa", "retrieval", "grounding")
BLESSED = "blessed_model_card"
"""The name, without its ending, of the card that has all of it."""
LATER = f"Not known when the bundle was packed: see `{BLESSED}.md` of the round in MLflow that registered the version."
SERVED = {
    "load_seconds": ("seconds until it is ready", "{:.2f}"),
    "latency_ms": ("median of single text requests, ms", "{:.2f}"),
    "loaded_latency_ms": ("median latency under load, ms", "{:.2f}"),
    "requests_per_second": ("requests a second under load", "{:.1f}"),
    "memory_bytes": ("resident memory of the server, MB", "{:.1f}"),
    "size_bytes": ("size of the version, MB", "{:.2f}"),
}
MEGA = {"memory_bytes": 1e6, "size_bytes": 1e6}


@dataclass(frozen=True)
class Blessed:
    """What is known of a version only when it is judged: the quality verdict, what was measured on a server (`checks`),
    and how long the runs of the stages took, by stage, in seconds and in CPU seconds."""

    quality: Verdict
    checks: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)


def model_card(
    name: str,
    variant: str,
    scores: Mapping[str, Scores],
    manifest: Manifest,
    parameters: Mapping[str, Any],
    lineage: Mapping[str, Any],
    choice: str = "",
    *,
    parity: Mapping[str, Any],
    licence: str,
    base_models: Sequence[str],
    blessed: Blessed | None = None,
) -> str:
    """Returns the card as Markdown.

    `scores` are those of each model by its name, of which `onnx-VARIANT` is the shipped one; `lineage` holds the facts
    that are known when the card is written (commit, DVC hash of the data), each printed as it is called. `choice` is
    the table of the exported variants, where they were measured, `parity` the shipped one's entry of `parity.json`,
    `licence` the SPDX expression of what the weights were made from, `base_models` their names on the hub.
    """
    shipped = scores[EXPORTED + variant]
    sections = {
        "Model details": (
            f"A multimodal embedding model: text, an image, or both become one vector of {shipped.model.dimension} "
            f"numbers, so that what belongs together lies close. It is a student of "
            f"{scores['student'].model.parameters:,} parameters, distilled from a teacher of "
            f"{scores['teacher'].model.parameters:,}, exported to ONNX ({variant}).\n\n"
            f"Licence of what the weights and the tokenizer were made from: {licence}. Code in the bundle: Apache-2.0. "
            "`bundle.json` says it file by file."
        ),
        "Intended use": (
            "Search and recommendation over text and images like those of the data below: names to images, images to "
            "names, classification by name, questions about an image, finding the named object. Vectors have length 1 "
            "and are compared by their dot product; the leading part of a vector, normalised again, is a smaller "
            "embedding.\n\n"
            "**Out of scope**: judging people; identifying persons; reading text in images; safety decisions; "
            "languages and kinds of images that the data below do not have."
        ),
        "Factors": _languages(manifest) + " Scores are given by meta-task and by whether training has seen such data.",
        "Metrics": (
            "hit@1: the share of the queries whose nearest candidate is a right one, in percent; ties count as their "
            "expected value. Intervals are those of 95 % over the queries."
        ),
        "Training data": _data(manifest),
        "Training": _training(parameters, blessed),
        "Evaluation data": (
            f"{len(shipped.tasks)} evaluation sets of data set `{shipped.dataset_digest}`, scorer {shipped.scorer}, "
            f"prompts `{shipped.prompts}`. IND: training has seen others of its kind; OOD: it has not."
        ),
        "Scores": "\n\n".join(
            (_score_table(scores, shipped), "### By evaluation set", _task_table(shipped, scores["teacher"]))
        ),
        "Compared with the champion": _comparison(blessed),
        "Parity": _parity(parity),
        **({"Variants": _variants(choice)} if choice else {}),
        "On a server": _served(blessed),
        "Ethical considerations": (
            "It was not examined for bias, and its data were not chosen to represent people. Do not use it to judge "
            "people. Whatever the models that it was made from have learnt, it may have too."
        ),
        "Limits": (
            "* Good on what resembles its data; the OOD row shows how it falls off. Nothing else was measured.\n"
            "* It knows no more facts than its data: no reading of text in images, no people, places or events.\n"
            "* Its similarities are for ranking; they are no probabilities, and do not compare between versions."
        ),
        "Where it comes from": _facts({**lineage, "model fingerprint": shipped.model.fingerprint}),
        "Parameters": f"```yaml\n{yaml.safe_dump(dict(parameters), sort_keys=True).rstrip()}\n```\n",
    }
    metadata = yaml.safe_dump(
        _metadata(name, shipped, manifest, base_models, licence), sort_keys=False, allow_unicode=True
    )
    return f"---\n{metadata}---\n\n# {name}\n\n" + "\n\n".join(
        f"## {title}\n\n{text}" for title, text in sections.items()
    )


def summary(card: str, quality: Verdict, limit: int) -> str:
    """Returns the beginning of a card for where there is no room for more than `limit` characters: what it is, how it
    was judged, and where the whole card is."""
    details = card.split("## Model details\n\n", 1)[1].split("\n\n", 1)[0]
    text = f"{details}\n\nQuality: {quality.sentence}.\n\nThe whole card: `{BLESSED}.md` of its round."
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _metadata(
    name: str, shipped: Scores, manifest: Manifest, base_models: Sequence[str], licence: str
) -> dict[str, Any]:
    """Returns what the hub reads in front of a card (https://huggingface.co/docs/hub/model-cards)."""
    has_name = " " not in licence and licence != "NOASSERTION"
    known = {
        "language": manifest.corpus.get("trained_languages"),
        "license": licence.lower() if has_name else "other",
        "license_name": None if has_name else licence,
        "library_name": "onnx",
        "pipeline_tag": "feature-extraction",
        "tags": ["embeddings", "multimodal", "onnx", "embedline"],
        "datasets": [manifest.name],
        "base_model": list(base_models),
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": task.meta_task},
                        "dataset": {"name": each, "type": manifest.name, "revision": shipped.dataset_digest},
                        "metrics": [{"type": task.metric, "value": task.score}],
                    }
                    for each, task in sorted(shipped.tasks.items())
                ],
            }
        ],
    }
    return {key: value for key, value in known.items() if value}


def _training(parameters: Mapping[str, Any], blessed: Blessed | None) -> str:
    recipes = [
        f"**{section}**: {_length(recipe['schedule'])} of at most {recipe['schedule']['batch_size']:,} pairs, losses "
        f"{', '.join(dict.fromkeys(loss['name'] for phase in recipe['phases'] for loss in phase['losses']))}."
        for section in ("teacher", "distillation")
        if (recipe := parameters.get(section))
    ]
    if blessed is None:
        return "\n\n".join([*recipes, f"Time: {LATER}"])
    rows = [
        (stage, f"{blessed.seconds[stage]:.0f}", _number(blessed.cpu_seconds.get(stage), "{:.0f}"))
        for stage in blessed.seconds
    ]
    return "\n\n".join([*recipes, _table(("stage", "seconds", "CPU seconds"), rows)])


def _length(schedule: Mapping[str, Any]) -> str:
    """Returns how long a training is, by the number that the recipe gives."""
    if schedule.get("epochs"):
        return f"{schedule['epochs']:,} epochs in batches"
    return f"{schedule['steps']:,} steps"


def _comparison(blessed: Blessed | None) -> str:
    if blessed is None:
        return LATER
    rows = [
        (row["name"], *(_percent(row.get(key)) for key in ("challenger", "champion", "difference", "lower", "upper")))
        for row in blessed.quality.table
    ]
    head = ("", "this model", "champion", "difference", "at least", "at most")
    return f"{blessed.quality.sentence}.\n\n{_table(head, rows)}"


def _served(blessed: Blessed | None) -> str:
    if blessed is None:
        return LATER
    checks = blessed.checks
    rows = [
        (label, *(_number(checks.get(who + key), form, MEGA.get(key, 1)) for who in ("", "champion_")))
        for key, (label, form) in SERVED.items()
    ]
    slowdown = [
        f"{name.removeprefix('slowdown_').capitalize()}: {checks[name]:.2f} times as slow as the champion "
        f"({checks[f'{name}_lower']:.2f} to {checks[f'{name}_upper']:.2f})."
        for name in ("slowdown_latency", "slowdown_throughput")
        if name in checks
    ]
    network = f"Tries to reach a network: {checks['network_tries']} (proof: {checks['network_proof']})."
    least = f"Least cosine of its answers to the expected ones: {checks['server_cosine']:.5f}."
    return "\n\n".join([_table(("", "this model", "champion"), rows), *slowdown, network, least])


def _parity(parity: Mapping[str, Any]) -> str:
    return (
        f"Exported against trained, on {parity['items']} items: least cosine {parity['minimum']:.5f}, mean "
        f"{parity['mean']:.5f}; of an item's ten nearest {parity['rank_agreement_10']:.3f} are the same."
    )


def _variants(table: str) -> str:
    introduction = (
        "Measured where the model was exported, on the dev split; *same at k* is the share of the k nearest items that "
        "are those of fp32."
    )
    return f"{introduction}\n\n{table}"


def _languages(manifest: Manifest) -> str:
    if "trained_languages" not in manifest.corpus:
        return "Languages: not recorded by this data source; those of the data below."
    trained, unseen = (", ".join(manifest.corpus[key]) for key in ("trained_languages", "unseen_languages"))
    return f"Trained on names in: {trained}. Scored, never trained on: {unseen}. (CLDR codes.)"


def _data(manifest: Manifest) -> str:
    rows = [(name, entry.version, f"`{entry.sha256}`") for name, entry in sorted(manifest.inputs.items())]
    return (
        f"**{manifest.name}** ({manifest.source}), digest `{manifest.digest}`: {manifest.images:,} images, "
        f"{sum(manifest.tasks.train.values()):,} training rows in {len(manifest.tasks.train)} tasks, "
        f"{len(manifest.tasks.eval)} evaluation sets; {manifest.quarantined:,} rows were rejected.\n\n"
        f"Licence: {'; '.join(filter(None, manifest.licence)) or 'not recorded'}\n\n"
        + _table(("made from", "version", "SHA-256"), rows)
    )


def _score_table(scores: Mapping[str, Scores], shipped: Scores) -> str:
    models = [*TRAINED, *sorted(model for model in scores if model.startswith(EXPORTED))]
    rows = [
        (group, *(_percent(scores[model].aggregates.get(group)) for model in models), _interval(shipped, group))
        for group in GROUPS
    ]
    rows.append(("parameters", *(f"{scores[model].model.parameters:,}" for model in models), ""))
    return _table(("", *(model.replace(EXPORTED, "exported, ") for model in models), "shipped, 95 %"), rows)


def _interval(scores: Scores, group: str) -> str:
    limits = scores.confidence.get(group)
    return f"{_percent(limits[0])} to {_percent(limits[1])}" if limits else "-"


def _task_table(shipped: Scores, teacher: Scores) -> str:
    def cells(name: str, task: TaskScore) -> Sequence[str]:
        low, high = map(_percent, task.interval)
        return (
            name, task.meta_task, task.distribution or "", f"{task.queries:,}", f"{task.candidates:,}",
            _percent(teacher.tasks[name].score), _percent(task.score), f"{low} to {high}",
        )  # fmt: skip

    head = ("set", "meta-task", "", "queries", "candidates", "teacher", "shipped", "95 %")
    return _table(head, [cells(name, task) for name, task in sorted(shipped.tasks.items())])


def _facts(facts: Mapping[str, Any]) -> str:
    known = {name.replace("_", " "): value for name, value in sorted(facts.items()) if value is not None}
    return "\n".join(f"* {name}: `{value}`" for name, value in known.items())


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)
