"""A suite whose digest was computed from the files that it was read from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.corpus.hashes import verified_digest

if TYPE_CHECKING:
    from components.evaluation.sets import Suite

DIGESTS = "digests"
"""The folder, in that of the vectors, that remembers the hashes of unchanged files."""


def verified(suite: Suite, cache: Path | None) -> Suite:
    """Returns the suite of a data set whose files, images included, are those that its manifest vouches for.

    Raises `DataInvalid` naming the first files that are not, and for an image the first set and row that need it.
    """

    def described(file: Path) -> str:
        shown = [position for position, item in enumerate(suite.items) if file in (item.image, *item.video)]
        return f"{file} ({suite.place(shown[0])})" if shown else str(file)

    verified_digest(suite.root, cache and cache / DIGESTS, described)
    return suite
