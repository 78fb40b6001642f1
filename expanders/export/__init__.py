"""A trained network as one file for a machine without this package.

    python -m expanders.export RUN_DIR

writes the run's best network as ONNX in which a sparse layer is gathers and depthwise convolutions
over its live weights (`plain`), checks the file in its own runtime (`formats`), and measures it
beside the dense network (`measure`). `expanders.export_network` does the first two for any module.
"""

from typing import Literal

Form = Literal["onnx", "c", "torch", "dense-onnx", "dense-torch"]
Dtype = Literal["float32", "int8"]

SUFFIXES: dict[Form, str] = {
    "onnx": ".onnx",
    "c": ".c",
    "torch": ".pt2",
    "dense-onnx": "-dense.onnx",
    "dense-torch": "-dense.pt",
}
