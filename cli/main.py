"""The command line: all commands by what a person does, and how each of them ends."""

from __future__ import annotations

import errno
import sys
import traceback
from importlib import import_module
from pathlib import Path

import typer

from cli.screen import say
from components.errors import EmbedlineError
from components.quiet import configure
from components.workspace import STATE

TRACEBACKS = STATE / "logs" / "traceback.log"
INTERRUPTED = 130
PANELS = {
    "Make a model": ("init", "plan", "run", "ingest", "stage", "profile", "export"),
    "Judge it": ("evaluate", "compare", "history", "lineage", "reproduce"),
    "Serve it": ("serve", "gateway", "keys", "deploy", "routes", "approve", "rollback", "transfer"),
    "Search with it": ("search",),
    "Watch it": ("monitor", "backtest", "schedule"),
    "Look after the workspace": ("doctor", "reconcile", "prune", "reset"),
}
"""What `--help` shows together. Each command is the function of its name in the module of its name."""

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
for panel, names in PANELS.items():
    for name in names:
        app.command(rich_help_panel=panel)(getattr(import_module(f"cli.{name}"), name))


class Interrupted(EmbedlineError):
    """The user has pressed Ctrl-C."""

    exit_code = INTERRUPTED


def main() -> None:
    """Runs a command; every error becomes a message that says what to do, and its exit code."""
    configure()
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
    """Keeps the traceback in `TRACEBACKS` and returns the message that names it."""
    TRACEBACKS.parent.mkdir(parents=True, exist_ok=True)
    TRACEBACKS.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return EmbedlineError(
        f"{type(error).__name__}: {error}", f"This is a fault of ours; its traceback is in {TRACEBACKS}."
    )


def fail(error: EmbedlineError) -> int:
    """Prints the error, for a machine where one asks, and returns its exit code."""
    if "--json" in sys.argv:
        say({"error": error.problem, "remedy": error.remedy, "exit_code": error.exit_code})
    else:
        lines = [f"embedline: {error.problem}", *(f"  {line}" for line in error.remedy.splitlines())]
        print("\n".join(lines), file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    main()
