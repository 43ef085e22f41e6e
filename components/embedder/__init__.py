"""The model that is trained and shipped: load, save, encode; one interface for torch and ONNX Runtime.

`components.embedder.dual_encoder` builds and saves models; it is not imported here, because torch takes seconds.
"""

from components.embedder.embedders import Embedder, OnnxEmbedder, TorchEmbedder, Vectors, fingerprint
from components.embedder.pretrained import find_model

__all__ = [
    "Embedder",
    "OnnxEmbedder",
    "TorchEmbedder",
    "Vectors",
    "find_model",
    "fingerprint",
]
