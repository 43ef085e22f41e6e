"""The model: load, save, encode; one interface for torch, ONNX Runtime, endpoints, files of vectors and Triton.

`components.embedder.dual_encoder` builds and saves models; it is not imported here, because torch takes seconds.
"""

from components.embedder.backends import Embedder, OnnxEmbedder, TorchEmbedder, Vectors, fingerprint
from components.embedder.open import open_embedder, probed_fingerprint
from components.embedder.pretrained import find_model

__all__ = [
    "Embedder",
    "OnnxEmbedder",
    "TorchEmbedder",
    "Vectors",
    "find_model",
    "fingerprint",
    "open_embedder",
    "probed_fingerprint",
]
