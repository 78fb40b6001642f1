"""A trained network as one file for a machine without this package.

    python -m expanders.export RUN_DIR

writes the run's best network as ONNX in which a sparse layer is gathers and depthwise convolutions
over its live weights (`plain`), and checks the file in its own runtime (`formats`).
"""
