"""The data docs: one page with every expectation and every task, complete in itself: it opens without a network.

Great Expectations' own pages load their style and a tracking pixel from elsewhere; this one is made of the same result.
"""

from __future__ import annotations

from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --warning: #9a6700; --critical: #cf222e }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 2rem; font-size: 14px }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line) }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.passed { color: var(--good) } .warning { color: var(--warning) } .critical { color: var(--critical) }
.scroll { overflow-x: auto } ul { margin: 0; padding-left: 1.1rem } code { overflow-wrap: anywhere }
"""
COLUMNS = {
    "rows": "rows", "leaked": "leaked", "duplicate_fraction": "duplicates",
    "repeated_candidates": "repeated candidates", "ambiguous_fraction": "ambiguous",
    "longest_text": "longest text", "largest_class_fraction": "largest class",
}  # fmt: skip
SCRIPTS = 4


def render(report: dict[str, Any]) -> str:
    """Returns the report as one HTML page without any address in it."""
    findings = report["findings"]
    critical = sum(not finding["passed"] and finding["severity"] == "critical" for finding in findings)
    warnings = sum(not finding["passed"] and finding["severity"] == "warning" for finding in findings)
    verdict = "Fit to train on" if report["passed"] else "Not fit to train on"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{escape(report["name"])}: validation</title><link rel="icon" href="data:,"><style>{STYLE}</style></head><body>
<h1>{escape(report["name"])}: <span class="{"passed" if report["passed"] else "critical"}">{verdict}</span></h1>
<p>{len(findings)} expectations evaluated, {critical} critical failed, {warnings} warnings.
{report["quarantined"]:,} rows were quarantined when the data came in.</p>
<p>Data <code>{escape(report["data_digest"])}</code></p>
<h2>Expectations</h2>
<table><tr><th>verdict</th><th>expectation</th><th>what must hold</th><th>where it does not</th></tr>
{"".join(_finding(finding) for finding in findings)}</table>
<h2>Tasks</h2>
<div class="scroll"><table><tr><th>split</th><th>task</th>
{"".join(f'<th class="number">{title}</th>' for title in COLUMNS.values())}<th>scripts</th><th>rows at fault</th></tr>
{"".join(_task(task) for task in report["tasks"])}</table></div>
</body></html>
"""


def _finding(finding: dict[str, Any]) -> str:
    word = "passed" if finding["passed"] else finding["severity"]
    places = "".join(f"<li>{_pairs(place)}</li>" for place in finding["places"])
    hidden = finding["found"] - len(finding["places"])
    more = f"<li>and {hidden:,} more</li>" if hidden else ""
    return (f'<tr><td class="{word}">{word}</td><td>{escape(finding["name"])}</td><td>{escape(finding["meaning"])}</td>'
            f"<td>{f'<ul>{places}{more}</ul>' if places else ''}</td></tr>\n")  # fmt: skip


def _task(task: dict[str, Any]) -> str:
    numbers = "".join(f'<td class="number">{_number(name, task[name])}</td>' for name in COLUMNS)
    scripts = ", ".join(f"{escape(name)} {share:.1%}" for name, share in list(task["scripts"].items())[:SCRIPTS])
    faults = task["schema_fault"] or "; ".join(
        f"{kind.replace('_', ' ')}: {', '.join(map(str, rows))}" for kind, rows in task["rows_at_fault"].items()
    )
    return (f"<tr><td>{escape(task['split'])}</td><td>{escape(task['task'])}</td>{numbers}"
            f"<td>{scripts}</td><td>{escape(faults)}</td></tr>\n")  # fmt: skip


def _number(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if name.endswith("_share") else f"{value:,.0f}"


def _pairs(place: dict[str, Any]) -> str:
    return ", ".join(f"{escape(key.replace('_', ' '))} {escape(str(value))}" for key, value in place.items())
