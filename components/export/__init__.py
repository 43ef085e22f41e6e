"""ONNX, quantisation, parity, and the bundle that is served.

`components.export.stage` runs the stage `export`; it is not imported here, because torch takes seconds.
"""
