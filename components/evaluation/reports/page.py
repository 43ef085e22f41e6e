"""The scores of models on one benchmark as one HTML file that needs no network: bars, tables, and the worst queries.

It has no script, images lie inside, and every text from data is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from components.corpus import Item
from components.corpus.item import ImageSource
from components.corpus.rows import plain
from components.evaluation.report import TIE_RATE_SHOWN
from components.evaluation.reports.drawing import bar, bounds, count, document, image_element, percent, short
from components.evaluation.reports.misses import Miss
from components.evaluation.reports.standings import Standings, chance, flags
from components.files import write_text
from components.scores import Scores

FRAMES_SHOWN = 3
DIGEST_SHOWN = 12


def report_page(
    scores: Mapping[str, Scores], published: Mapping[str, Mapping[str, float]], misses: Sequence[Miss]
) -> str:
    """Returns the page of models' scores by the name that the page gives them; the first of them has the accent.

    `published` are the scores of other models, 0 to 1, by model and set; one without a set of this benchmark is left
    out. `misses` are queries that the first model answers badly. Raises `UsageError` unless all scores are of one
    benchmark, data set and scorer: others do not stand beside each other.
    """
    standings = Standings(scores, published)
    name, first = next(iter(scores.items()))
    title = f"{name if len(scores) == 1 else f'{len(scores)} models'} on {first.benchmark}"
    queries = sum(task.queries for task in standings.tasks.values())
    main = f"""<p class="facts"><span>data <code>{escape(first.dataset_digest[:DIGEST_SHOWN])}</code></span>
<span>scorer {escape(first.scorer)}</span><span>{len(standings.tasks):,} sets</span><span>{queries:,} queries</span></p>
<section class="models">{"".join(_model(name, standings) for name in scores)}</section>
{_means(standings)}
{_sets(standings)}
{_published(standings)}
{_misses(name, misses)}
{_identity(standings)}"""
    return document(title, main)


def write_page(path: Path, page: str) -> None:
    """Writes the page, whole or not at all. Raises `UsageError` where nothing can be written."""
    write_text(path, page)


def _model(name: str, standings: Standings) -> str:
    model = standings.scores[name]
    facts = [
        *([f"{count(model.model.parameters)} parameters"] if model.model.parameters else []),
        f"{model.model.dimension:,} dimensions",
    ]
    kinds = Counter(kind for task in model.tasks for kind in flags(task, model))
    marks = "".join(_flag(f"{kind}: {number} {'set' if number == 1 else 'sets'}") for kind, number in kinds.items())
    return (
        f'<div class="model{_first(name, standings)}"><div><h3>{escape(name)}</h3>'
        f'<p class="soft">{" · ".join(facts)}</p>{marks}</div>{_figures(model, standings.distributions)}</div>'
    )


def _figures(model: Scores, distributions: Sequence[str]) -> str:
    means = model.aggregates
    if "overall" not in means:
        absent = {"missing": model.missing, "extra": model.extra}
        sets = "; ".join(f"{kind} {', '.join(names)}" for kind, names in absent.items() if names)
        return f'<p class="none">No overall: {escape(sets)}</p>'
    interval = f"<span>{bounds(model.confidence['overall'])}</span>" if "overall" in model.confidence else ""
    figures = {group: percent(means.get(group)) for group in distributions}
    if {"IND", "OOD"} <= means.keys():
        figures["IND − OOD"] = f"{100 * (means['IND'] - means['OOD']):+.1f}"
    return (
        f'<div class="figure overall"><p class="soft">overall, %</p><b>{percent(means["overall"])}{interval}</b></div>'
        + "".join(
            f'<div class="figure"><p class="soft">{escape(label)}</p><b>{figure}</b></div>'
            for label, figure in figures.items()
        )
    )


def _means(standings: Standings) -> str:
    """Returns the section of aggregates: a bar for each of our models, a tick below it for each published one."""
    kinds = {
        "modality": standings.modalities if len(standings.modalities) > 1 else [],
        "meta-task": [*standings.meta_tasks],
        "training distribution": standings.distributions,
    }
    rows = [
        f"<h3>{kind}</h3>{''.join(_mean(group, standings) for group in groups)}"
        for kind, groups in kinds.items()
        if groups
    ]
    ticks = " Ticks below are published models, of which the best is named." if standings.published else ""
    return (
        f'<section><h2>Means over sets</h2><p class="note">In %; a full bar is 100.{ticks}</p>'
        f'<div class="bars">{"".join(rows)}</div></section>'
    )


def _mean(group: str, standings: Standings) -> str:
    theirs = standings.theirs(group)
    best = max(theirs, key=lambda name: theirs[name], default=None)
    rows = [f'<span class="group">{escape(group)}</span>'] if standings.several else []
    *_, last = standings.scores
    for name, mean in standings.ours(group).items():
        label, kind = (name, _first(name, standings)) if standings.several else (group, "")
        ticks = theirs if name == last else {}
        interval = standings.scores[name].confidence.get(group)
        remark = f"{escape(best)} {percent(theirs[best])}" if best and ticks else ""
        rows.append(
            f'<span class="name{kind}">{escape(label)}</span>'
            f"{bar(f'{name}, {group}', mean, standings.is_first(name), interval, others=ticks)}"
            f'<span class="number">{percent(mean)}</span>'
            f'<span class="beside">{"a set is missing" if mean is None else remark}</span>'
        )
    return "".join(rows)


def _sets(standings: Standings) -> str:
    heads = "".join(
        f'<th scope="col" class="number">{escape(name) if standings.several else "score"}</th>'
        f'<th scope="col" class="range">95 % interval</th>'
        for name in standings.scores
    )
    columns = 6 + 2 * len(standings.scores)
    rows = []
    for meta_task, names in standings.meta_tasks.items():
        metrics = ", ".join(sorted({standings.tasks[name].metric for name in names}))
        rows.append(_group(f"{escape(meta_task)} <span>{escape(metrics)}</span>", columns))
        rows += [_set(name, standings) for name in names]
    if standings.unscored:
        rows.append(_group("not scored", columns))
    for name in standings.unscored:
        marks = _set_flags(name, standings)
        rows.append(f'<tr><th scope="row">{escape(name)}</th><td colspan="{columns - 1}">{marks}</td></tr>\n')
    return f"""<section><h2>All sets</h2>
<p class="note">In %, with the 95 % interval over queries, which also lies across the end of each bar. Chance,
the dashed mark, is 1&nbsp;/&nbsp;candidates where every query has one relevant candidate. A tie counts as the expected
value over its orders; a set is flagged where {TIE_RATE_SHOWN:.1%} of the queries or more hang on one.</p>
<div class="scroll"><table><thead><tr><th scope="col">set</th>{heads}<th class="plot"></th><th></th>
<th scope="col" class="number">chance</th><th scope="col" class="number">queries</th>
<th scope="col" class="number">candidates</th></tr></thead><tbody>
{"".join(rows)}</tbody></table></div></section>"""


def _set(name: str, standings: Standings) -> str:
    task, bars, cells = standings.tasks[name], [], []
    by_chance = chance(task)
    for label, model in standings.scores.items():
        if own := model.tasks.get(name):
            bars.append(bar(f"{label}, {name}", own.score, standings.is_first(label), own.interval, chance(own)))
        cells.append(
            f'<td class="number{_first(label, standings)}">{percent(own.score if own else None)}</td>'
            f'<td class="range">{bounds(own.interval) if own else ""}</td>'
        )
    return (
        f'<tr><th scope="row">{escape(name)} {_set_flags(name, standings)}</th>{"".join(cells)}'
        f'<td class="plot">{"".join(bars)}</td><td class="soft">{escape(task.distribution or "")}</td>'
        f'<td class="number">{percent(by_chance) if by_chance else ""}</td><td class="number">{task.queries:,}</td>'
        f'<td class="number">{task.candidates:,}</td></tr>\n'
    )


def _set_flags(name: str, standings: Standings) -> str:
    return "".join(
        _flag(f"{label}: {words}" if standings.several else words)
        for label, model in standings.scores.items()
        for words in flags(name, model).values()
    )


def _published(standings: Standings) -> str:
    if not standings.published:
        return ""
    names = [*standings.scores, *standings.published]
    rows = [_group("means", len(names) + 1)]
    for group in ("overall", *standings.distributions, *standings.meta_tasks):
        theirs = standings.theirs(group)
        rows.append(_compared(group, [*standings.ours(group).values(), *map(theirs.get, standings.published)]))
    for meta_task, sets in standings.meta_tasks.items():
        rows.append(_group(escape(meta_task), len(names) + 1))
        for name in sets:
            ours = [model.tasks[name].score if name in model.tasks else None for model in standings.scores.values()]
            rows.append(_compared(name, [*ours, *(scores.get(name) for scores in standings.published.values())]))
    heads = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in names)
    return f"""<section><h2>Beside published models</h2>
<p class="note">In %, the best of a row in bold. Others measured what is published, and without the values of single
queries it cannot be tested against ours.</p>
<div class="scroll"><table class="even"><thead><tr><th scope="col">set</th>{heads}</tr></thead><tbody>
{"".join(rows)}</tbody></table></div></section>"""


def _compared(label: str, shares: Sequence[float | None]) -> str:
    best = max((share for share in shares if share is not None), default=None)
    cells = "".join(
        f'<td class="number{"" if column else " first"}{"" if share is None or share != best else " best"}">'
        f"{percent(share)}</td>"
        for column, share in enumerate(shares)
    )
    return f'<tr><th scope="row">{escape(label)}</th>{cells}</tr>\n'


def _misses(model: str, misses: Sequence[Miss]) -> str:
    if not misses:
        return ""
    return f"""<section><h2>Worst queries of {escape(model)}</h2>
<p class="note">Each with the rank of the candidate that was expected.</p>
<div class="misses">{"".join(map(_miss, misses))}</div></section>"""


def _miss(miss: Miss) -> str:
    rank = f"{miss.rank:,.1f}".removesuffix(".0")
    items = {"query": miss.query, "expected": miss.expected, "found": miss.found}
    return (
        f'<article class="miss"><p><b>{escape(miss.task)}</b><span>rank {rank}</span></p><div>'
        f"{''.join(_item(label, plain(item)) for label, item in items.items())}</div></article>\n"
    )


def _item(label: str, item: Item) -> str:
    images = [*([item.image] if item.image else []), *_spread(item.video)]
    texts = {' class="soft"': item.instruction, "": item.text}
    paragraphs = "".join(f'<p dir="auto"{kind}>{escape(short(text))}</p>' for kind, text in texts.items() if text)
    return (
        f"<figure><figcaption>{label}</figcaption><div>{''.join(map(image_element, images))}</div>{paragraphs}</figure>"
    )


def _identity(standings: Standings) -> str:
    """Returns the section with every digest in full."""
    first = next(iter(standings.scores.values()))
    facts = {"benchmark": first.benchmark, "data": first.dataset_digest, "scorer": first.scorer}
    for name, model in standings.scores.items():
        facts |= {f"{name}: model": model.model.fingerprint, f"{name}: prompts": model.prompts}
    rows = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(fact)}</code></dd>" for name, fact in facts.items())
    return f"<section><h2>Identity</h2><dl>{rows}</dl></section>"


def _group(title: str, columns: int) -> str:
    return f'<tr class="group"><th colspan="{columns}">{title}</th></tr>\n'


def _flag(words: str) -> str:
    return f'<span class="flag">{escape(words)}</span>'


def _first(name: str, standings: Standings) -> str:
    return " first" if standings.is_first(name) else ""


def _spread(frames: Sequence[ImageSource]) -> list[ImageSource]:
    """Returns the frames if they are few, or else `FRAMES_SHOWN` of them, from the first to the last."""
    if len(frames) <= FRAMES_SHOWN:
        return list(frames)
    return [frames[step * (len(frames) - 1) // (FRAMES_SHOWN - 1)] for step in range(FRAMES_SHOWN)]
