"""An alarm budget over many windows: so many false alarms a month are promised, and no more are raised.

A window's p-value becomes an e-value, `kappa * p ** (kappa - 1)`, whose mean is at most 1 while nothing changes
(V. Vovk and R. Wang 2021, E-values: Calibration, combination and applications). The e-detector of Shiryaev and Roberts,
`evidence = (evidence + 1) * e`, raises an alarm when its evidence reaches a threshold, and then starts again from 0.
While nothing changes the mean number of windows until an alarm is at least the threshold (J. Shin, A. Ramdas and
A. Rinaldo 2022, E-detectors: a nonparametric framework for sequential change detection), so the threshold is the number
of windows in which one false alarm is allowed.
"""

from __future__ import annotations

from collections.abc import Iterable

DAYS_A_MONTH = 30


def threshold(false_alarms_per_month: float, windows_a_day: float) -> float:
    """Returns the evidence that raises an alarm: how many windows there are to a false alarm that is allowed."""
    return max(1.0, windows_a_day * DAYS_A_MONTH / false_alarms_per_month)


def e_value(p: float, kappa: float) -> float:
    """Returns the e-value of a p-value above 0, `kappa` in (0, 1): small ones reward very small p-values."""
    return float(kappa * p ** (kappa - 1))


def gathered(evidence: float, p: float, kappa: float) -> float:
    """Returns the evidence after one more window."""
    return (evidence + 1) * e_value(p, kappa)


def alarms(p_values: Iterable[float], limit: float, kappa: float) -> list[bool]:
    """Returns for each window of a series whether an alarm is raised after it."""
    evidence, raised = 0.0, []
    for p in p_values:
        evidence = gathered(evidence, p, kappa)
        raised.append(evidence >= limit)
        evidence = 0.0 if raised[-1] else evidence
    return raised
