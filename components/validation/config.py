"""The section `validation` of `params.yaml`."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from components.sections import Fraction, Positive, Rate, Section, demand


class Validation(Section):
    min_train_rows: Positive
    min_eval_sets: Positive
    min_image_side: Positive
    max_image_side: Positive
    max_aspect: Rate
    max_text_length: Positive
    max_duplicate_fraction: Fraction
    max_class_fraction: Fraction

    @model_validator(mode="after")
    def _admits_some_image(self) -> Self:
        return demand(self, self.min_image_side <= self.max_image_side, "min_image_side is above max_image_side")
