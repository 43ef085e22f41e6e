"""Loaders of the published benchmarks from a local mirror: `LOADERS` by layout, `image_set` for MMEB's own columns.

A set that is missing, cut short or of another size than published is `DataInvalid`; the message says what is wrong and
how to download it.
"""

from components.evaluation.loaders import video, visual_documents
from components.evaluation.loaders.image import IMAGE_LAYOUTS, ImageSet, image_set
from components.evaluation.loaders.tables import Loader

LOADERS: dict[str, Loader] = video.LOADERS | visual_documents.LOADERS

__all__ = ["IMAGE_LAYOUTS", "LOADERS", "ImageSet", "Loader", "image_set"]
