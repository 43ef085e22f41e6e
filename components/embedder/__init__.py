"""The model: load, save, encode; one interface for torch, ONNX Runtime and Triton.

`components.embedder.dual_encoder` builds and saves models; it is not imported here, because torch takes seconds.
"""

from components.embedder.backends import Embedder, OnnxEmbedder, TorchEmbedder, Vectors, fingerprint
from components.embedder.pretrained import find_text_model

__all__ = ["Embedder", "OnnxEmbedder", "TorchEmbedder", "Vectors", "find_text_model", "fingerprint"]
