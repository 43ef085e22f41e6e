import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from components.errors import DataInvalid, EmbedlineError
from components.progress import Progress
from components.training import processes

pytestmark = pytest.mark.slow  # processes of torch's own, started for each test

State = dict[str, Tensor]
LeftOver = Callable[[], set[psutil.Process]]
ROOT = Path(__file__).parents[2]
BATCHES = [[3, 1, 4, 5, 9, 2, 6], [0, 8, 7, 11, 10], [1]]  # uneven among two; the last leaves the second without a row
IMAGES_FROM = 6


class Towers(nn.Module):
    """Texts below `IMAGES_FROM`, images above, a tower for each, one that nothing uses, and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.texts = nn.Sequential(nn.Embedding(12, 6), nn.Tanh(), nn.Linear(6, 5))
        self.images = nn.Sequential(nn.Embedding(12, 6), nn.Tanh(), nn.Linear(6, 5))
        self.unused = nn.Linear(2, 2)
        self.goal = nn.Parameter(torch.randn(12, 5))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))
        self.double()

    def encode(self, items: Tensor) -> Tensor:
        vectors = torch.zeros(len(items), 5, dtype=torch.float64)
        for tower, rows in ((self.texts, items < IMAGES_FROM), (self.images, items >= IMAGES_FROM)):
            if rows.any():
                vectors = vectors.index_put((rows,), tower(items[rows]))
        return functional.normalize(vectors, dim=-1)

    def loss(self, vectors: Tensor, items: Tensor) -> Tensor:
        """InfoNCE among all vectors, and the distance to what each should be."""
        logits = self.logit_scale.exp() * vectors @ self.goal[items].T
        return functional.cross_entropy(logits, torch.arange(len(items))) + (vectors - self.goal[items]).square().mean()


def gathered(vectors: Tensor, total: int) -> Tensor:
    return processes.gather(vectors, total)


def detached(vectors: Tensor, total: int) -> Tensor:
    return processes.gather(vectors, total).detach()


def unscaled(vectors: Tensor, total: int) -> Tensor:
    """A gradient to the own rows that does not know how many processes there are."""
    whole = processes.gather(vectors.detach(), total).detach()
    whole[processes.own(total)] = vectors
    return whole


def train(join: Callable[[Tensor, int], Tensor], report: Progress) -> tuple[State, State]:
    """Returns the gradients of the first step and the weights after one step a batch."""
    model = Towers()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    gradients: State = {}
    for step, batch in enumerate(BATCHES):
        items = torch.tensor(batch)
        vectors = join(model.encode(items[processes.own(len(items))]), len(items))
        optimiser.zero_grad()
        loss = model.loss(vectors, items)
        loss.backward()
        processes.average_gradients(model.parameters())
        gradients = gradients or {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None
        }
        optimiser.step()
        report(step, {"loss": loss.item(), "rank": processes.rank()})
    return gradients, model.state_dict()


def train_each_way(folder: Path, report: Progress) -> None:
    """What a rank does; the first and the others also show that they wait for each other."""
    with processes.first_before_others():
        if processes.is_first():
            time.sleep(0.3)
            (folder / "made").touch()
        assert (folder / "made").exists()
    if not processes.is_first():
        time.sleep(0.3)
        (folder / "read").touch()
    processes.wait_for_all()
    assert (folder / "read").exists()
    found = {join.__name__: train(join, report) for join in (gathered, detached, unscaled)}
    torch.save((found, distributed.get_backend(), torch.get_num_threads()), folder / f"{processes.rank()}.pt")


def fail(how: str, report: Progress) -> None:
    """The second rank fails; the first waits for it in vain."""
    report(1, {"loss": 0.5})
    if processes.rank() == 1:
        if how == "own":
            raise DataInvalid("row 7 is broken", "Correct row 7.")
        if how == "other":
            raise ValueError("rows do not fit")
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()


def never_end(folder: Path, report: Progress) -> None:
    for step in range(1000):
        (folder / f"{processes.rank()}.pid").write_text(str(os.getpid()))
        distributed.barrier()
        report(step, {})
        time.sleep(0.05)


def count_ignored_warnings(report: Progress) -> None:
    """Reports how many filters ignore what `configure` lets a process ignore."""
    report(0, {"ignored": [each[::2] for each in warnings.filters].count(("ignore", FutureWarning, 0))})


def ignore(step: int, metrics: Mapping[str, float]) -> None: ...


def children() -> set[psutil.Process]:
    """Returns what runs below this process, but for Python's own keeper of semaphores."""
    alive = {child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE}
    return {child for child in alive if "resource_tracker" not in " ".join(child.cmdline())}


@pytest.fixture
def left_over() -> LeftOver:
    """Returns what runs below this process and did not before the test: servers of other tests may be alive."""
    before = children()
    return lambda: children() - before


def close(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(
        torch.allclose(first[name], second[name], rtol=0, atol=1e-12) for name in first
    )


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


def test_two_processes_train_as_one_does_on_the_whole_batch(tmp_path: Path, left_over: LeftOver) -> None:
    reports: list[tuple[int, Mapping[str, float]]] = []
    processes.launch(train_each_way, (tmp_path,), 2, lambda *reported: reports.append(reported))
    alone: list[tuple[int, Mapping[str, float]]] = []
    gradients, weights = train(gathered, lambda *reported: alone.append(reported))
    assert "unused.weight" not in gradients and {"texts.0.weight", "images.2.bias", "logit_scale"} < gradients.keys()
    for rank in (0, 1):
        found, backend, threads = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert backend == "gloo" and threads == max(1, torch.get_num_threads() // 2)
        assert close(found["gathered"][0], gradients) and close(found["gathered"][1], weights)
        for control in ("detached", "unscaled"):
            assert not close(found[control][0], gradients) and not close(found[control][1], weights), control
    assert [step for step, _ in reports] == [0, 1, 2] * 3 and {reported["rank"] for _, reported in reports} == {0}
    assert [reported["loss"] for _, reported in reports[:3]] == pytest.approx(
        [reported["loss"] for _, reported in alone], abs=1e-12
    )
    assert not left_over()


def test_each_process_sets_its_own_switches() -> None:
    bare = "import warnings; print([kind for action, _, kind, *_ in warnings.filters if kind is FutureWarning])"
    found = subprocess.run([sys.executable, "-c", bare], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n", "a fresh interpreter ignores no FutureWarning"
    reports: list[Mapping[str, float]] = []
    processes.launch(count_ignored_warnings, (), 2, lambda _, metrics: reports.append(metrics))
    assert reports == [{"ignored": 1}]


@pytest.mark.parametrize("total", [0, 1, 2, 7, 9])
def test_the_rows_of_all_processes_together_are_all_rows(total: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 4)
    shares = []
    for rank in range(4):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        shares.append(list(range(total))[processes.own(total)])
    assert list(chain(*shares)) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_gathers_and_averages_nothing() -> None:
    vectors, weight = torch.rand(3, 2), nn.Parameter(torch.ones(2))
    (weight * 2).sum().backward()
    processes.average_gradients([weight])
    assert processes.count() == 1 and processes.is_first() and processes.own(3) == slice(0, 3)
    assert processes.gather(vectors, 3) is vectors and weight.grad is not None and weight.grad.tolist() == [2, 2]
    with processes.first_before_others():
        processes.wait_for_all()


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("own", DataInvalid, "row 7 is broken"),
        ("other", EmbedlineError, "training process 1 failed: ValueError: rows do not fit"),
        ("killed", EmbedlineError, "training process 1 ended: Signal 9 (SIGKILL)"),
    ],
)
def test_the_first_error_of_a_process_is_the_error(
    how: str, kind: type[EmbedlineError], says: str, capfd: pytest.CaptureFixture[str], left_over: LeftOver
) -> None:
    steps: list[int] = []
    with pytest.raises(kind) as raised:
        processes.launch(fail, (how,), 2, lambda step, _: steps.append(step))
    assert type(raised.value) is kind and raised.value.problem.startswith(says) and "\n" not in raised.value.problem
    assert steps == [1] and not left_over() and capfd.readouterr() == ("", "")
    if how == "own":
        assert raised.value.remedy == "Correct row 7."
    if how == "other":
        assert "in fail\n" in raised.value.__notes__[0], "where it happened is not lost"


def test_an_interrupted_report_ends_the_processes(tmp_path: Path, left_over: LeftOver) -> None:
    def stop(step: int, metrics: Mapping[str, float]) -> None:
        if step == 2:
            raise KeyboardInterrupt

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        processes.launch(never_end, (tmp_path,), 2, stop)
    assert not left_over() and len(list(tmp_path.glob("*.pid"))) == 2
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has ended")
def test_the_processes_end_with_the_one_that_launched_them(tmp_path: Path) -> None:
    command = (
        "from pathlib import Path\nfrom tests.training.test_processes import ignore, never_end, processes\n"
        f"processes.launch(never_end, (Path({str(tmp_path)!r}),), 2, ignore)"
    )
    launcher = subprocess.Popen([sys.executable, "-c", command], cwd=ROOT)
    wait_for(lambda: len(list(tmp_path.glob("*.pid"))) == 2)
    ranks = [psutil.Process(int(file.read_text())) for file in tmp_path.glob("*.pid")]
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(30) == -signal.SIGTERM
    wait_for(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in ranks))
