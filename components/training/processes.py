"""One training in several processes, each of which encodes its share of every batch.

Every process draws the same batch, encodes its own rows, gathers the vectors of all and computes the same loss L of
all vectors v. The gradient is that of one process. With J_r the derivative of rank r's rows v_r, the gradient of the
encoder's weights is Σ_r J_rᵀ ∂L/∂v_r; rank r computes J_rᵀ (R ∂L/∂v_r), for `gather` multiplies by the number R of
ranks, and `average_gradients` takes the mean over ranks. A weight that the loss itself holds, such as a temperature,
has the same gradient on every rank, and so has the mean.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.multiprocessing.spawn import spawn

from components.errors import EmbedlineError
from components.progress import Progress
from components.quiet import configure

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
ENDING_SECONDS = 10
DOUBT_SECONDS = 1
PATIENCE = timedelta(days=1)  # what the first process does before the others may take hours
Channel = tuple[Connection, Lock]


def rank() -> int:
    """Returns the number of this process; 0 where there is but one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def count() -> int:
    """Returns the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Returns whether this is the process that writes what all of them made."""
    return rank() == 0


def wait_for_all() -> None:
    """Waits until every process has come to this point."""
    if count() > 1:
        distributed.barrier()


@contextmanager
def first_before_others() -> Iterator[None]:
    """Lets the first process do what it holds before the others do: these find the files that the first has made."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def own(total: int) -> slice:
    """Returns which of `total` rows are this process's: all processes' together, in order, are all rows."""
    shares = _shares(total)
    start = sum(shares[: rank()])
    return slice(start, start + shares[rank()])


def gather(vectors: Tensor, total: int) -> Tensor:
    """Returns `(total, dim)`: the vectors of all processes, each the rows of its `own`, with gradient to these.

    The backward pass needs no communication, for every process computes the gradient of the same loss.
    """
    if count() == 1:
        return vectors
    if not vectors.requires_grad:  # a process that has no row takes part in the backward pass all the same
        vectors = vectors.detach().requires_grad_(torch.is_grad_enabled())
    shares = _shares(total)
    padded = nn.functional.pad(vectors.detach(), (0, 0, 0, max(shares) - len(vectors)))
    gathered = [torch.empty_like(padded) for _ in shares]
    distributed.all_gather(gathered, padded)
    parts = [part[:share] for part, share in zip(gathered, shares, strict=True)]
    parts[rank()] = vectors.view_as(vectors)
    if vectors.requires_grad:
        parts[rank()].register_hook(lambda gradient: gradient * count())
    return torch.cat(parts)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its mean over all processes; one that no process has stays absent.

    A weight that some process did not use, such as an image tower's where all of its rows are texts, has none there:
    it counts as zero.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if count() == 1 or not trained:
        return
    users = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int64)
    users = users.to(trained[0].device)
    distributed.all_reduce(users)
    works = []
    for parameter, used in zip(trained, users.tolist(), strict=True):
        if used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            works.append((parameter.grad, distributed.all_reduce(parameter.grad, async_op=True)))
    for gradient, work in works:
        work.wait()
        gradient.div_(count())


def launch(entry: Callable[..., None], arguments: tuple[Any, ...], processes: int, report: Progress) -> None:
    """Runs `entry(*arguments, report)` in several processes of this machine, as torchrun does, and waits for them.

    What rank 0 reports arrives at `report` here, in order, while the processes run; other ranks' reports are dropped.
    `entry` and `arguments` must be picklable. The processes end with this function, whatever ends it. Raises the
    first error of a rank: an `EmbedlineError` as it was, anything else as an `EmbedlineError` that names the rank.
    """
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    channel = (writer, context.Lock())
    launched = spawn(_agent, (entry, arguments, processes, channel), join=False)
    (agent,) = launched.processes
    try:
        writer.close()
        failure = _follow(reader, report)
        agent.join()
    finally:
        agent.terminate()
        agent.join(ENDING_SECONDS)
        agent.kill()
        reader.close()
    if failure is not None:
        raise failure
    if agent.exitcode:
        raise EmbedlineError(f"the training processes' launcher ended with exit code {agent.exitcode}", "Run again.")


def _shares(total: int) -> list[int]:
    """Returns how many of `total` rows each process has; they differ by at most 1."""
    return [(total + other) // count() for other in reversed(range(count()))]


def _follow(reader: Connection, report: Progress) -> EmbedlineError | None:
    """Hands on what is reported until all processes have ended; returns the first error of any of them."""
    failure = None
    while True:
        try:
            message = reader.recv()
        except (EOFError, OSError):  # the latter where a process was killed in the middle of a message
            return failure
        if isinstance(message, EmbedlineError):
            failure = failure or message
        else:
            report(*message)


def _agent(_: int, entry: Callable[..., None], arguments: tuple[Any, ...], processes: int, channel: Channel) -> None:
    """Starts the ranks and watches over them, in a process of its own: torch changes how signals are handled."""
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):  # the error says what they log
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            shutdown_timeout=ENDING_SECONDS // 2,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, _work)(entry, arguments, processes, channel)
        except SignalException:
            sys.exit(1)
        except ChildFailedError as error:
            number, failure = error.get_first_failure()
            remedy = "If it was not you who ended it, the machine may have run out of memory: use fewer processes."
            _send(channel, EmbedlineError(f"training process {number} ended: {failure.message}", remedy))


def _work(entry: Callable[..., None], arguments: tuple[Any, ...], processes: int, channel: Channel) -> None:
    """Is one rank, in a fresh interpreter."""
    configure()
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
    backend = "nccl" if torch.cuda.device_count() >= processes else "gloo"
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group(backend, timeout=PATIENCE)

    def report(step: int, metrics: Mapping[str, float]) -> None:
        if rank() == 0:
            _send(channel, (step, dict(metrics)))

    try:
        entry(*arguments, report)
    except EmbedlineError as error:
        _send(channel, error)
        sys.exit(1)
    except Exception as error:
        time.sleep(DOUBT_SECONDS)  # if another process's end is the cause, this one is ended before it tells its error
        failure = EmbedlineError(f"training process {rank()} failed: {type(error).__name__}: {error}")
        failure.add_note(traceback.format_exc())
        _send(channel, failure)
        sys.exit(1)
    distributed.destroy_process_group()


def _send(channel: Channel, message: EmbedlineError | tuple[int, dict[str, float]]) -> None:
    writer, lock = channel
    with lock:
        writer.send(message)
