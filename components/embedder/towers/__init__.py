"""The towers of a dual encoder: one file each in `text/` and `image/`, found by its name.

A file holds `Settings` and `build(settings)`. A text tower's `build` returns the tower and its tokenizer, an image
tower's the tower, and the mean and standard deviation of colours that it expects. A text tower may hold
`start(encoder, teacher, folder)`, which gives a student's tower what it can take over from its teacher.
"""

from __future__ import annotations

from components.embedder.config import IMAGE_TOWERS, TEXT_TOWERS


def register_towers() -> None:
    """Lets transformers load every tower that is ours: it knows them once their modules are imported."""
    for towers in (TEXT_TOWERS, IMAGE_TOWERS):
        for name in towers.names():
            towers.module(name)
