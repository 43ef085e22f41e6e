"""The section `evaluation` of `params.yaml`."""

from __future__ import annotations

from components.sections import Positive, Section


class Evaluation(Section):
    batch_size: Positive
