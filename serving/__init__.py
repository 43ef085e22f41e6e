"""What runs next to users: the Triton server, its versions, its client, and the search over it."""

import components  # noqa: F401  (first: it switches telemetry off)
from serving.client import TritonEmbedder
from serving.control import deploy, probe, serve
from serving.triton import TritonServer

__all__ = ["TritonEmbedder", "TritonServer", "deploy", "probe", "serve"]
