"""Other people's models as the same interface: sentence-transformers, multi-vector, endpoints, files of vectors.

`components.backends.directory` opens a model directory, `components.backends.open` whatever an address names; neither
imports a backend before it is asked for one.
"""
