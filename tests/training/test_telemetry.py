import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from components.errors import UsageError
from components.training.telemetry import measure, memory

SQUARE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])


def test_the_corners_of_a_square_have_known_numbers() -> None:
    """Of its six pairs of corners, four are √2 apart and two 2: exp(-4) and exp(-8)."""
    found = measure(SQUARE, SQUARE)
    expected = math.log((4 * math.exp(-4) + 2 * math.exp(-8)) / 6)
    assert found == pytest.approx({"alignment": 0.0, "uniformity": expected, "modality_gap": 0.0}, abs=1e-6)


def test_opposite_sides_are_two_apart() -> None:
    north, south = torch.tensor([[0.0, 1.0]]).repeat(3, 1), torch.tensor([[0.0, -1.0]]).repeat(3, 1)
    assert measure(north, south) == pytest.approx({"alignment": 4.0, "uniformity": 0.0, "modality_gap": 2.0})


def test_a_collapsed_side_counts_half() -> None:
    collapsed = SQUARE[:1].repeat(4, 1)
    assert measure(SQUARE, collapsed)["uniformity"] == pytest.approx(measure(SQUARE, SQUARE)["uniformity"] / 2)


def test_numbers_are_those_of_the_formulas_pair_by_pair() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, positives = (functional.normalize(torch.randn(9, 5, generator=generator), dim=-1) for _ in range(2))
    found = measure(queries.requires_grad_(), positives)
    sides = []
    for side in (queries.detach().double().numpy(), positives.double().numpy()):
        between = [np.exp(-2 * ((side[i] - side[j]) ** 2).sum()) for i in range(9) for j in range(i)]
        sides.append(np.log(np.mean(between)))
    assert found["uniformity"] == pytest.approx(np.mean(sides), abs=1e-6)
    assert found["alignment"] == pytest.approx((2 - 2 * (queries * positives).sum(1)).mean().item(), abs=1e-6)
    shuffled = measure(queries, positives.roll(1, 0))
    assert shuffled["alignment"] != pytest.approx(found["alignment"], abs=1e-3)
    assert shuffled["uniformity"] == pytest.approx(found["uniformity"], abs=1e-6)


def test_one_pair_has_no_uniformity() -> None:
    with pytest.raises(UsageError, match="one pair"):
        measure(SQUARE[:1], SQUARE[:1])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there, the accelerator's memory is reported")
def test_memory_is_the_peak_that_the_kernel_saw() -> None:
    status = Path("/proc/self/status")
    if not status.is_file():
        pytest.skip("only Linux tells its peak in a file")
    before = memory()
    block = np.ones(int(before * 2**27) + 2**25)  # as much as the peak, and 256 MiB
    peak = memory()
    kilobytes = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    assert peak == pytest.approx(kilobytes / 2**20, rel=0.02) and peak >= block.nbytes / 2**30 > before
    del block
    assert memory() >= peak
