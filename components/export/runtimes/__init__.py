"""The `runtime.py` of classes of backbones; a dual encoder's is `components/embedder/runtime.py`."""
