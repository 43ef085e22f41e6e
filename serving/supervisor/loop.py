"""Watches processes: each is asked a real question now and then, healed when it does not answer, and given up on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

from components.errors import EmbedlineError
from serving import events
from serving.supervisor.decision import Heal, How, Policy, next_step
from serving.supervisor.metrics import Metrics
from serving.supervisor.rotation import rotate

LOG = logging.getLogger(__name__)
LOOK_SECONDS = 0.25
CONFIRM_SECONDS = 0.5
"""A question that was not answered is asked again after this time: a version may have been unloaded just then."""
ENDED = "its process has ended"


class Supervised(Protocol):
    """A process that can be asked and healed; `probe`, `reload` and `restart` raise `EmbedlineError` if they fail."""

    @property
    def name(self) -> str: ...
    @property
    def log(self) -> Path: ...
    @property
    def reloadable(self) -> bool: ...
    @property
    def is_running(self) -> bool: ...
    def probe(self) -> None: ...
    def restart(self) -> None: ...


@dataclass
class Watched:
    """A process, and what is known of it. Times are seconds of the monotonic clock."""

    process: Supervised
    next_probe: float = 0.0
    failures: int = 0
    unhealthy_since: float | None = None
    heals: list[Heal] = field(default_factory=list)


class Watch:
    """Looks at the processes in turn, for ever; `looked` is called after each round, `changed` after each probe."""

    def __init__(
        self,
        home: Path,
        processes: Sequence[Supervised],
        policy: Policy,
        probe_seconds: float,
        metrics: Metrics,
        changed: Callable[[Sequence[Watched]], None],
        looked: Callable[[], None],
    ) -> None:
        self.home = home
        self.watched = [Watched(process) for process in processes]
        self.policy = policy
        self.probe_seconds = probe_seconds
        self.metrics = metrics
        self.changed = changed
        self.looked = looked

    def run(self) -> NoReturn:
        """Raises `EmbedlineError` when it gives a process up; whatever stops the command is raised through it."""
        while True:
            for watched in self.watched:
                self.look(watched)
                rotate(watched.process.log)
            self.looked()
            time.sleep(LOOK_SECONDS)

    def look(self, watched: Watched) -> None:
        """Asks the process if it is time to, and takes the next step if it is known not to answer."""
        problem = ENDED
        if watched.process.is_running:
            if time.monotonic() < watched.next_probe:
                return
            problem = self.ask(watched) or ""
            if not problem:
                if watched.unhealthy_since is not None:
                    self.recovered(watched, "itself")
                watched.failures = 0
                return
            watched.failures += 1
            if watched.failures == 1:
                return
        if watched.unhealthy_since is None:
            watched.unhealthy_since = time.monotonic()
            self.tell(logging.ERROR, watched, "unhealthy", f"does not answer: {problem}", problem=problem)
            self.changed(self.watched)
        step = next_step(
            watched.heals, watched.process.is_running, watched.process.reloadable, time.monotonic(), self.policy
        )
        if step == "give_up":
            self.give_up(watched, problem)
        if step != "wait":
            self.heal(watched, step)

    def ask(self, watched: Watched) -> str | None:
        """Returns what is wrong with the answer, or None; the next question is due sooner in the first case."""
        began = time.monotonic()
        problem = None
        try:
            watched.process.probe()
        except EmbedlineError as error:
            problem = error.problem
        over = time.monotonic()
        name = watched.process.name
        self.metrics.seconds.labels(name).observe(over - began)
        self.metrics.probes.labels(name, "failed" if problem else "passed").inc()
        watched.next_probe = over + (min(CONFIRM_SECONDS, self.probe_seconds) if problem else self.probe_seconds)
        if problem is None and watched.unhealthy_since is None:
            self.metrics.healthy.labels(name).set(1)
            self.changed(self.watched)
        return problem

    def heal(self, watched: Watched, how: How) -> None:
        """Reloads or restarts the process and asks it; what fails, whyever, is logged and counted as a failed try."""
        name = watched.process.name
        LOG.warning("%s: %s", name, how)
        self.metrics.heals.labels(name, how).inc()
        try:
            getattr(watched.process, how)()
            watched.process.probe()
            worked = True
        except EmbedlineError as error:
            LOG.error("%s: the %s did not help: %s", name, how, error.problem)
            worked = False
        except Exception:  # a fault of ours must not end what still answers
            LOG.exception("%s: the %s did not help", name, how)
            worked = False
        watched.heals.append(Heal(time.monotonic(), how, worked))
        if worked:
            self.recovered(watched, how)

    def recovered(self, watched: Watched, how: str) -> None:
        assert watched.unhealthy_since is not None
        seconds = round(time.monotonic() - watched.unhealthy_since, 2)
        watched.unhealthy_since, watched.failures = None, 0
        watched.next_probe = time.monotonic() + self.probe_seconds
        self.metrics.healthy.labels(watched.process.name).set(1)
        self.tell(
            logging.WARNING, watched, "healed", f"answers again after {seconds} s ({how})", how=how, seconds=seconds
        )
        self.changed(self.watched)

    def give_up(self, watched: Watched, problem: str) -> NoReturn:
        tried = f"{sum(heal.how == 'restart' for heal in watched.heals)} restarts"
        self.tell(logging.CRITICAL, watched, "gave_up", f"given up after {tried}: {problem}", problem=problem)
        raise EmbedlineError(
            f"{watched.process.name} does not answer after {tried}: {problem}",
            f"See {watched.process.log}. If the version is at fault, go back with `embedline rollback`; then start "
            "`embedline serve` again.",
        )

    def tell(self, level: int, watched: Watched, kind: events.Kind, message: str, **facts: Any) -> None:
        """Writes a log line and an event; a full disk keeps nobody from being healed."""
        name = watched.process.name
        if kind == "unhealthy":
            self.metrics.healthy.labels(name).set(0)
        LOG.log(level, "%s: %s", name, message)
        try:
            events.record(self.home, kind, process=name, **facts)
        except OSError as error:
            LOG.error("the event could not be written: %s", error)
