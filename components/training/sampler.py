"""Which rows make a step: a few tasks, drawn by weight, each with a sub-batch of its own, epoch after epoch.

A sub-batch of a single task makes the negatives hard (Meng et al., VLM2Vec-V2, 2025). The rows of a step depend on the
schedule and the number of the step alone, so that a resumed run, or one of several processes, sees what every other
would have seen.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from components.errors import UsageError
from components.training.config import Planned, Schedule
from components.training.examples import Examples, Integers, modalities, require_known, row_numbers

SIDES = {"none": (), "query": ("queries",), "positive": ("positives",), "both": ("queries", "positives")}


def planned(examples: Examples, schedule: Schedule) -> Planned:
    """Returns the schedule with as many steps as its epochs take, and with a batch no larger than the data.

    An epoch draws as many rows as all tasks with a weight have. Raises `UsageError` if none has one, and if the
    schedule names a task that the data set does not have.
    """
    require_known(schedule.task_weights, examples.tasks, "schedule.task_weights")
    require_known(schedule.no_flip_tasks, examples.tasks, "schedule.no_flip_tasks")
    pairs = sum(examples.rows(task) for task in drawn_tasks(examples, schedule))
    batch_size = min(schedule.batch_size, max(pairs, 2 * schedule.sub_batches))
    steps = schedule.steps or max(1, round((schedule.epochs or 1) * pairs / batch_size))
    return Planned.model_validate(schedule.model_dump() | {"steps": steps, "epochs": None, "batch_size": batch_size})


def drawn_tasks(examples: Examples, schedule: Schedule) -> list[str]:
    """Returns the tasks that have rows and a weight. Raises `UsageError` if there are none."""
    tasks = [task for task in examples.tasks if schedule.task_weights.get(task, 1.0) > 0 and examples.rows(task)]
    if not tasks:
        raise UsageError("schedule.task_weights: no task of the data set has a weight above 0", "Give one a weight.")
    return tasks


class Sampler:
    """Draws the rows of a step. `steps` is how many there are: the schedule's, or fewer by its stopping rule.

    The stopping rules are those of `datasets.interleave_datasets`: the step in which the first task, or the last one,
    ends its first epoch is the last step. Raises `UsageError` if no task has a weight, or an unknown one has.
    """

    steps: int

    def __init__(self, examples: Examples, schedule: Planned) -> None:
        require_known(schedule.task_weights, examples.tasks, "schedule.task_weights")
        tasks = drawn_tasks(examples, schedule)
        seed = schedule.seed % 2**63
        shares = task_shares(examples, schedule, tasks)
        uniform = np.random.default_rng(seed).random((schedule.steps, schedule.sub_batches))
        drawn = np.minimum(np.searchsorted(np.cumsum(shares), uniform, side="right"), len(tasks) - 1)
        size = schedule.batch_size // schedule.sub_batches
        self.visits: dict[str, Integers] = {}
        self.times: dict[str, Integers] = {}
        self.epochs: dict[str, Epochs] = {}
        for number, task in enumerate(tasks):
            self.visits[task], times = np.unique(np.nonzero(drawn == number)[0], return_counts=True)
            self.times[task] = times
            sides = [getattr(examples, side)[task] for side in SIDES[schedule.distinct]]
            self.epochs[task] = Epochs(
                examples.rows(task), [row_numbers(side) for side in sides], times * size, size, [seed, _code(task)]
            )
        self.steps = self._stop(schedule)

    def __call__(self, step: int) -> dict[str, list[int]]:
        """Returns the row numbers of each drawn task: at most the schedule's batch size in all, no row twice.

        A task that is drawn several times has one larger sub-batch. Steps count from 0; raises `IndexError` beyond
        the last. A jump to a later step costs the planning of the epochs before it only where rows must be distinct.
        """
        return {task: self.epochs[task].rows(visit).tolist() for task, visit in self._drawn(step).items()}

    def draws(self, step: int) -> dict[str, int]:
        """Returns how often the step draws each of its tasks; together the schedule's `sub_batches`."""
        return {task: int(self.times[task][visit]) for task, visit in self._drawn(step).items()}

    def _drawn(self, step: int) -> dict[str, int]:
        """Returns the tasks of a step, and which of the task's visits the step is."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        visits = {task: int(np.searchsorted(steps, step)) for task, steps in self.visits.items()}
        return {
            task: visit
            for task, visit in visits.items()
            if visit < len(self.visits[task]) and self.visits[task][visit] == step
        }

    def _stop(self, schedule: Planned) -> int:
        if schedule.stop == "steps":
            return schedule.steps
        lasts = [(self.visits[task], epochs.first_length - 1) for task, epochs in self.epochs.items()]
        ends = [int(steps[last]) + 1 if last < len(steps) else schedule.steps for steps, last in lasts]
        return min(ends) if schedule.stop == "first_exhausted" else max(ends)


class Epochs:
    """The rows of one task, spread over its visits (the steps that draw it), every row once an epoch.

    `capacities` says how many rows a visit may take at most, `size` how many those beyond the schedule would take. An
    epoch has as few visits as these allow, all about equally full. Two rows with the same number in one of `keys`, each
    `(rows,)`, do not come in one visit: the second is put off to a later visit of the epoch.
    """

    def __init__(self, count: int, keys: list[Integers], capacities: Integers, size: int, seed: list[int]) -> None:
        self.count = count
        self.keys = keys
        self.capacities = np.concatenate([capacities, np.full(count, size)])
        self.totals = np.concatenate([[0], np.cumsum(self.capacities)])
        self.seed = seed
        self.epoch, self.start, self.stop = -1, 0, 0
        self.visit_of = np.empty(0, np.int64)

    @property
    def first_length(self) -> int:
        """How many visits the first epoch has."""
        return int(self._plan(0, 0).max()) + 1

    def rows(self, visit: int) -> Integers:
        """Returns the rows of a visit, the same whatever was asked for before; the current epoch is remembered."""
        if visit < self.start:
            self.epoch, self.stop = -1, 0
        while visit >= self.stop:
            self.epoch, self.start = self.epoch + 1, self.stop
            self.stop = self.start + self._fewest(self.count, self.start)
            if self.keys or visit < self.stop:
                self.visit_of = self._plan(self.epoch, self.start)
                self.stop = int(self.visit_of.max()) + 1
        return np.flatnonzero(self.visit_of == visit)

    def _plan(self, epoch: int, start: int) -> Integers:
        """Returns `(rows,)` the visit of every row.

        A round deals the rows, equal ones next to each other, over the visits in turn; what collides nevertheless is
        left to another round over the visits after those. Each visit of a round keeps a row at least, so this ends.
        """
        random = np.random.default_rng([*self.seed, epoch])
        visit_of = np.empty(self.count, np.int64)
        left = random.permutation(self.count)
        while len(left):
            most = [int(np.bincount(key[left]).max()) for key in self.keys]
            visits = max([self._fewest(len(left), start), *most])
            if self.keys:
                key = self.keys[int(np.argmax(most))]
                left = left[np.argsort(random.permutation(self.count)[key[left]], kind="stable")]
            chosen = start + deal(self.capacities[start : start + visits], len(left))
            kept = np.ones(len(left), bool)
            for key in self.keys:
                kept &= _first_of_each(chosen * self.count + key[left])
            visit_of[left[kept]] = chosen[kept]
            left = left[~kept]
            start += visits
        return visit_of

    def _fewest(self, rows: int, start: int) -> int:
        return int(np.searchsorted(self.totals, self.totals[start] + rows)) - start


def deal(capacities: Integers, rows: int) -> Integers:
    """Returns `(rows,)` which visit gets each row: in turn, each its share of the rows and never above its capacity.

    Every visit gets a row if there are as many rows as visits; the capacities must suffice for the rows.
    """
    limits = -(-capacities * rows // capacities.sum())
    visits = np.repeat(np.arange(len(limits)), limits)
    turns = np.arange(len(visits)) - np.repeat(np.cumsum(limits) - limits, limits)
    return visits[np.argsort(turns / limits[visits], kind="stable")[:rows]]


def task_shares(examples: Examples, schedule: Schedule, tasks: list[str]) -> NDArray[np.float64]:
    """Returns how probable each task is: its weight's share, of all or, where modalities are balanced, of its kind.

    A task's kind is what most of its rows join, such as text with image; each kind is equally probable.
    """
    weights: NDArray[np.float64] = np.array([schedule.task_weights.get(task, 1.0) for task in tasks])
    if schedule.balance == "modalities":
        pairs = [10 * modalities(examples.queries[task]) + modalities(examples.positives[task]) for task in tasks]
        kinds = np.array([np.bincount(pair).argmax() for pair in pairs])
        weights = weights / np.array([weights[kinds == kind].sum() for kind in kinds])
    weights /= weights.sum()
    return weights


def _first_of_each(values: Integers) -> NDArray[np.bool_]:
    first = np.zeros(len(values), bool)
    first[np.unique(values, return_index=True)[1]] = True
    return first


def _code(task: str) -> int:
    return zlib.crc32(task.encode())
