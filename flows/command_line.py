"""The commands of `embedline`: from run, the whole line, to reset, which forgets what it made."""

from __future__ import annotations

import errno
import json
import signal
import sys
import time
import traceback
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import components  # noqa: F401  (first: it switches telemetry off)
from cli.init import init
from components import config as configuration
from components.errors import EmbedlineError, UsedWrongly
from components.export.config import Serving

HOME = Path(".embedline")
TRACEBACKS = HOME / "logs" / "traceback.log"

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
screen, errors = Console(), Console(stderr=True)
INTERRUPTED = 130
Machine = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
Git = Annotated[
    bool, typer.Option("--git", help="Make this folder a git repository with a first commit if it has none.")
]


class Interrupted(EmbedlineError):
    """The user has pressed Ctrl-C."""

    exit_code = INTERRUPTED


app.command()(init)


@app.command()
def run(git: Git = False, machine: Machine = False) -> None:
    """Run the whole line: ingest, every stage that is not up to date, register, compare, deploy, promote.

    Example: `embedline run`
    """
    configuration.read(Path(configuration.PARAMETERS))  # a wrong parameter is told at once, not after Prefect's start
    from flows.progress import shown
    from flows.retrain import retrain

    if git:
        start_repository()
    began = time.monotonic()
    with shown(errors):
        outcome = retrain()
    seconds = time.monotonic() - began
    if machine:
        say(
            {"version": outcome.version, "roles": dict(outcome.roles), "repeated": outcome.repeated, "seconds": seconds}
        )
        return
    show_scores()
    repeated = ", ".join(outcome.repeated) or "none: everything was up to date"
    screen.print(
        f"Version [bold]{outcome.version}[/bold]; {spell(outcome.roles)}. Stages run: {repeated}. {seconds:.0f} s."
    )
    screen.print('Next: [bold]embedline search "a sad cat"[/bold], or `make serve` to keep a server running.')


@app.command()
def ingest(git: Git = False, machine: Machine = False) -> None:
    """Build the data set that params.yaml describes and version it with DVC.

    Example: `embedline ingest`
    """
    from components.corpus import Manifest
    from flows.ingest import ingest as flow
    from flows.progress import shown

    if git:
        start_repository()
    with shown(errors):
        version = flow()
    manifest = Manifest.read(Path("data"))
    facts = {
        "data": version,
        "rows": manifest.tasks.rows,
        "images": manifest.images,
        "quarantined": manifest.quarantined,
    }
    if machine:
        say(facts)
    else:
        screen.print(f"data/ is version [bold]{version}[/bold]: {spell(facts)}")


@app.command()
def stage(name: Annotated[str, typer.Argument(help="A stage of dvc.yaml.")]) -> None:
    """Run one stage in this folder, as `dvc repro` does.

    Example: `embedline stage teacher`
    """
    from components.stages import run_stage

    run_stage(name)


@app.command()
def profile(
    name: Annotated[
        str | None,
        typer.Argument(help="A profile of the folder profiles, or `default` for none; without a name they are listed."),
    ] = None,
    machine: Machine = False,
) -> None:
    """Change params.yaml to a recipe of the literature, go back to the default, or list the recipes there are.

    Example: `embedline profile vlm2vec`
    """
    from components.profiles import DEFAULT, apply_profile, profile_names, read_profile, restore_default

    if name == DEFAULT:
        restore_default()
        say([]) if machine else screen.print(f"{configuration.PARAMETERS} has the recipes from before any profile.")
        return
    found = [apply_profile(name)] if name else [read_profile(known) for known in profile_names()]
    if machine:
        say([vars(one) for one in found])
    elif name:
        screen.print(
            f"{configuration.PARAMETERS} now trains after {found[0].paper}.\nWhere it differs: {found[0].differs}."
        )
        screen.print("Next: embedline run")
    else:
        for one in found:
            screen.print(f"[bold]{one.name}[/bold]: {one.paper}")


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A model directory, triton://HOST:PORT/MODEL/VERSION, https://HOST/v1#MODEL, or vectors:FOLDER."
        ),
    ],
    suite: Annotated[
        str, typer.Option(help="data, mmeb-v1, mmeb-v2, mteb:TASK, sts:FILE, or a sibling such as robustness.")
    ] = "data",
    mirror: Annotated[Path | None, typer.Option(help="The folder that holds a published benchmark's files.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Score this set alone; may be repeated.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The family whose prompts the model wants, such as qwen2_vl.")
    ] = None,
    vlm2vec: Annotated[Path | None, typer.Option(help="Write the scores in VLM2Vec's report layout too.")] = None,
    page: Annotated[bool, typer.Option("--open", help="Open the HTML page of the scores.")] = False,
    machine: Machine = False,
) -> None:
    """Score a model on a suite of evaluation sets; the scores and a page of them stay in .embedline/evaluations.

    Example: `embedline evaluate artifacts/student --suite robustness`
    """
    from components.evaluation import table
    from components.evaluation.reports import write_report
    from flows.evaluate import MTEB, SIMILARITY, Questions, evaluate_elsewhere, evaluate_model

    settings = configuration.read(Path(configuration.PARAMETERS)).evaluation
    questions = Questions(suite, mirror, task or (), backbone)
    if suite.startswith((MTEB, SIMILARITY)):
        numbers = evaluate_elsewhere(model, questions, settings, errors)
        if machine:
            say(numbers)
        else:
            screen.print(spell(numbers))
        return
    found = evaluate_model(model, questions, settings, errors)
    if vlm2vec:
        write_report(found.scores, vlm2vec)
    if page:
        webbrowser.open(found.page.resolve().as_uri())
    if machine:
        by_set = {name: task.score for name, task in found.scores.tasks.items()}
        rest = {"missing": found.scores.missing, "scores": str(found.file), "items_per_second": found.items_per_second}
        say({**found.scores.aggregates, **found.measured, "tasks": by_set, **rest})
        return
    if found.measured:
        measured = Table(suite, found.scores.model.name)
        for name, value in found.measured.items():
            measured.add_row(name, f"{value:.3f}")
        screen.print(measured)
    else:
        screen.print(table({found.scores.model.name: found.scores}))
    if found.scores.missing:
        screen.print(f"No overall score, without {', '.join(found.scores.missing)}.")
    screen.print(f"{found.items_per_second:,.0f} items a second were encoded.")
    screen.print(f"The scores are in {found.file}, their page is {found.page}.")


@app.command()
def compare(
    ours: Annotated[str, typer.Argument(help="A score file, or the name of a model that a round has scored.")],
    theirs: Annotated[str, typer.Argument(help="Another one, of the same queries.")],
    machine: Machine = False,
) -> None:
    """Say whether one model is better than another, query by query, with intervals.

    Example: `embedline compare student teacher`
    """
    from dataclasses import asdict

    from components.comparison import compare as paired
    from components.evaluation.reports import comparison_table
    from flows.evaluate import COMPARISON_SAMPLES, read_scores

    one, other = read_scores(ours), read_scores(theirs)
    found = paired(asdict(one), asdict(other), COMPARISON_SAMPLES, 0.95, same_prompts=False)
    note = (
        None if one.prompts == other.prompts else "The prompts differ: each model was asked in its own family's words."
    )
    if machine:
        say({"verdict": found.words(one.model.name, other.model.name), "note": note, **asdict(found)})
        return
    screen.print(comparison_table(found, (one.model.name, other.model.name)))
    if note:
        screen.print(note)


@app.command()
def serve() -> None:
    """Start Triton on the champion and the previous version, until Ctrl-C or SIGTERM.

    Example: `embedline serve`
    """
    from flows.serve import serve_roles

    for request in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(request, lambda *_: sys.exit(0))  # on its way out it stops the server, as Ctrl-C does
    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    with serve_roles(HOME, settings) as (server, versions):
        screen.print(
            f"Triton answers on http://{server.url} with version {versions[0]} (of {versions}); "
            f"metrics on {server.metrics_url}. Ctrl-C stops it."
        )
        while server.is_running:
            time.sleep(0.5)
        raise EmbedlineError("Triton has ended by itself", f"See {server.log}, then start it again.")


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="What to search for.")] = None,
    image: Annotated[
        Path | None, typer.Option(help="A picture to search with, alone or together with the text.")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What kind of answer is wanted.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="How many to show.")] = 10,
    page: Annotated[bool, typer.Option("--open", help="Write search.html with the pictures and open it.")] = False,
    machine: Machine = False,
) -> None:
    """Find the pictures of data/ nearest to a text, a picture, or both, by the champion on Triton.

    Example: `embedline search "a sad cat"`
    """
    from flows.serve import search_served
    from serving.page import results_page, write_page

    if not text and image is None:
        raise UsedWrongly("nothing to search for", 'Give a text or a picture: embedline search "a sad cat"')
    if image is not None and not image.is_file():
        raise UsedWrongly(f"{image}: no such file", "Name a PNG, JPEG, WebP or GIF file.")
    settings = configuration.read_section(Path(configuration.PARAMETERS), Serving)
    found = search_served(HOME, settings, text, image, instruction, top)
    if page:
        write_page(
            Path("search.html"), results_page(found.query, found.hits, found.model, found.latency_ms, found.searched)
        )
        webbrowser.open(Path("search.html").resolve().as_uri())
    if machine:
        say({"model": found.model, "latency_ms": found.latency_ms, "hits": [hit._asdict() for hit in found.hits]})
        return
    listing = Table(title=f"{found.model}, {found.latency_ms:.1f} ms, {found.searched} pictures")
    for column in ("", "score", "name", "picture"):
        listing.add_column(column)
    for rank, hit in enumerate(found.hits, 1):
        listing.add_row(str(rank), f"{hit.score:.3f}", hit.text, hit.image_path)
    screen.print(listing)
    if page:
        screen.print("The pictures are in search.html.")


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it.")] = "", machine: Machine = False
) -> None:
    """Make the previous version the champion again; a running server follows.

    Example: `embedline rollback --reason "wrong answers for flags"`
    """
    from flows.serve import roll_back

    roles = roll_back(HOME, reason)
    if machine:
        say(dict(roles))
    else:
        screen.print(f"Roles: {spell(roles)}")


@app.command()
def doctor(machine: Machine = False) -> None:
    """Check versions, fonts, ports, databases, disk and offline switches, and say how to mend each.

    Example: `embedline doctor`
    """
    from monitoring.doctor import diagnose

    findings = diagnose(Path())
    if machine:
        say([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            screen.print(
                f"{'[green]ok[/green]  ' if finding.ok else '[red]mend[/red]'} {finding.name}: {finding.detail}"
            )
            if not finding.ok:
                screen.print(f"     {finding.remedy}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def reset(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, machine: Machine = False) -> None:
    """Forget all rounds: delete the data set, artifacts, DVC's cache, the ledger, and MLflow's database; asks first.

    Example: `embedline reset`
    """
    from flows.reset import delete, made_by_rounds

    found = [str(path) for path in made_by_rounds(Path())]
    if found and not yes:
        errors.print(f"This deletes for good: {', '.join(found)}.\nType yes to go on: ", end="", markup=False)
        if sys.stdin.readline().strip() != "yes":
            raise UsedWrongly("nothing was deleted: the answer was not yes", "Answer yes, or run embedline reset --yes")
    delete(Path())
    if machine:
        say({"deleted": found})
    else:
        screen.print(f"Deleted: {', '.join(found) or 'nothing was there'}.", markup=False)


def start_repository() -> None:
    from components import lineage

    lineage.start_repository(Path(), errors.print)


def show_scores() -> None:
    from components.evaluation import Scores, table
    from components.workspace import SCORES

    screen.print(table({file.stem: Scores.read(file) for file in sorted(SCORES.glob("*.json"), reverse=True)}))


def spell(facts: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)


def say(facts: Any) -> None:
    print(json.dumps(facts, default=str))


def main() -> None:
    """Runs a command; every error becomes a message that says what to do, and its exit code."""
    try:
        app(standalone_mode=True)
    except EmbedlineError as error:
        sys.exit(fail(error))
    except SystemExit as end:  # typer leaves so at the end of every command, and makes of Ctrl-C this code
        if end.code == INTERRUPTED:
            fail(Interrupted("stopped by Ctrl-C", "Run the same command again: it goes on where it was."))
        raise
    except OSError as error:
        if error.errno != errno.ENOSPC:
            sys.exit(fail(unexpected(error)))
        sys.exit(
            fail(
                EmbedlineError(
                    f"the disk is full: {error.filename or Path.cwd()}",
                    "Free some space and run the same command again; nothing finished is lost.",
                )
            )
        )
    except Exception as error:  # the last resort: users see a message, the traceback goes to a file
        sys.exit(fail(unexpected(error)))


def unexpected(error: BaseException) -> EmbedlineError:
    TRACEBACKS.parent.mkdir(parents=True, exist_ok=True)
    TRACEBACKS.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return EmbedlineError(
        f"{type(error).__name__}: {error}", f"This is a fault of ours; its traceback is in {TRACEBACKS}."
    )


def fail(error: EmbedlineError) -> int:
    if "--json" in sys.argv:
        say({"error": error.problem, "remedy": error.remedy, "exit_code": error.exit_code})
    else:
        lines = [f"embedline: {error.problem}", *(f"  {line}" for line in error.remedy.splitlines())]
        print("\n".join(lines), file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    main()
