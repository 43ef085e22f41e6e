"""What runs next to users: the Triton server, its versions, its client, and the search over it."""

from serving.client import TritonEmbedder
from serving.control import deploy, probe, serve
from serving.triton import TritonServer

__all__ = ["TritonEmbedder", "TritonServer", "deploy", "probe", "serve"]
