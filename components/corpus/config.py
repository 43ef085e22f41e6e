"""The section `corpus` of `params.yaml`: what every source has; `components/corpus/sources/NAME.py` adds its own."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from components.found_by_name import FoundByName
from components.sections import Fraction, Section, Seed, demand

SOURCES = FoundByName("components.corpus.sources", "source")


class SourceSettings(Section):
    """Where the data come from, how much is kept for evaluation, how much may be broken before the ingest fails.

    `additions` are folders and tables of new pairs that join the training set (`components/corpus/additions.py`).
    """

    source: str
    name: str
    licence: str = ""
    seed: Seed = 0
    quarantine_limit: Fraction = 0.01
    dev_fraction: Fraction = 0.05
    eval_fraction: Fraction = 0.2
    additions: list[str] = Field(default_factory=lambda: ["incoming", "feedback"])

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        return demand(
            self, self.dev_fraction + self.eval_fraction < 1, "dev_fraction and eval_fraction together must be below 1"
        )

    def modules(self) -> list[str]:
        return [f"{SOURCES.package}.{self.source}"]


class FileSettings(SourceSettings):
    """A source that is read from one place: a folder, an archive, a table, or a name on the hub."""

    location: Annotated[str, Field(min_length=1)]


class PairSettings(FileSettings):
    """A source of image-text pairs; `columns` names those that hold them: `{image: ..., text: ...}`."""

    columns: dict[str, str] = Field(default_factory=dict)


Corpus = Annotated[SourceSettings, SOURCES]
