"""What computes exported models of a class; a dual encoder's is `components/embedder/runtime.py`."""
