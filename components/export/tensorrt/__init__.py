"""TensorRT engines of exported graphs: built, described, and read back, with a GPU or without one.

`components.export.tensorrt.export` writes them; the package that builds is imported only when one is built.
"""
