"""What every tower's settings have; `components/embedder/towers/text/NAME.py` and `image/NAME.py` add their own."""

from __future__ import annotations

from typing import Annotated, ClassVar

from components.found_by_name import FoundByName
from components.sections import Positive, Section

TEXT_TOWERS = FoundByName("components.embedder.towers.text", "kind")
IMAGE_TOWERS = FoundByName("components.embedder.towers.image", "kind")


IMAGE_MEAN = IMAGE_STD = (0.5, 0.5, 0.5)
"""The colours that a tower expects which does not say others."""


class TextTowerSettings(Section):
    """`kind` is the name of the tower's file."""

    kind: str

    @property
    def least_dimension(self) -> int:
        """How many numbers the common space must have at least."""
        return 0

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The directories, or names on the hub, whose bytes the tower starts from."""
        return ()


class ImageTowerSettings(Section):
    """`kind` is the name of the tower's file, `image_size` the side of the square that it sees, in pixels."""

    takes_any_size: ClassVar[bool] = False
    kind: str
    image_size: Positive

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The directories, or names on the hub, whose bytes the tower starts from."""
        return ()


TextTower = Annotated[TextTowerSettings, TEXT_TOWERS]
ImageTower = Annotated[ImageTowerSettings, IMAGE_TOWERS]
