"""ONNX, quantisation, parity, and the bundle that is served.

`components.export.export` exports a model; it is not imported here, because torch takes seconds.
"""

from components.export.bundle import Bundle, package, read_bundle, read_examples, served_fingerprint
from components.export.choice import served_variant

__all__ = ["Bundle", "package", "read_bundle", "read_examples", "served_fingerprint", "served_variant"]
