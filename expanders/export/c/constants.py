"""The constants of a C file: weights and edges, in as few bytes as they need."""

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from expanders.errors import SettingError
from expanders.wiring.layers import SparseLayer

_LARGEST = 2**16 - 1  # of the whole numbers among the constants

Layer = nn.Conv2d | nn.Linear | SparseLayer


class Constants:
    """Arrays and structs, each with a name of its own.

    Attributes:
        texts: their definitions in C.
        num_bytes: of all arrays.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.num_bytes = 0

    def array(self, name: str, values: npt.NDArray[Any]) -> str:
        """Add an array of numbers, whole ones in as few bytes as they need; returns its name."""
        if values.dtype.kind == "f":
            values = values.astype(np.float32).ravel()
            kind, texts = "float", [f"{value:.8e}F" for value in values.tolist()]
        else:
            values = values.astype(np.uint8 if values.max(initial=0) < 256 else np.uint16)
            kind, texts = f"uint{8 * values.itemsize}_t", [str(value) for value in values.tolist()]
        texts = texts or ["0"]  # C has no empty arrays
        label = f"{name}_{len(self.texts)}"
        lines = ",\n".join(", ".join(texts[i : i + 8]) for i in range(0, len(texts), 8))
        self.texts.append(f"static const {kind} {label}[{len(texts)}] = {{\n{lines}}};")
        self.num_bytes += values.nbytes
        return label

    def edges(self, layer: Layer) -> str:
        """Add what `Edges` in layers.c needs of a layer; returns its address.

        Raises:
            SettingError: if its inputs cannot be numbered in 16 bits.
        """
        outputs, inputs, weight = _graph(layer)
        num_right = layer.num_right if isinstance(layer, SparseLayer) else layer.weight.shape[0]
        degrees = np.bincount(outputs, minlength=num_right)
        bias = np.zeros(num_right) if layer.bias is None else as_numpy(layer.bias)
        weights, biases = self.array("weight", weight), self.array("bias", bias)
        every = np.arange(inputs.max(initial=0) + 1)
        is_complete = np.array_equal(inputs, np.tile(every, num_right))
        is_regular = degrees.min() == degrees.max()
        if not is_complete and inputs.max(initial=0) > _LARGEST:
            what = f"a sparse layer of more than {_LARGEST + 1:,} inputs"
            raise SettingError("format", "c", f"there is no C for {what}; use onnx")
        which = "NULL" if is_complete else self.array("inputs", inputs)
        how_many = "NULL" if is_regular else self.array("degrees", degrees)
        sizes = f"{1 + int(inputs.max(initial=0) > 255)}, {1 + int(degrees.max() > 255)}"
        fields = f"{weights}, {biases}, {which}, {how_many}, {sizes}, {degrees[0]}"
        label = f"edges_{len(self.texts)}"
        self.texts.append(f"static const Edges {label} = {{{fields}}};")
        return f"&{label}"


def _graph(layer: Layer) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """Outputs, inputs and kernels of a layer's edges, sorted by output, then by input."""
    if isinstance(layer, SparseLayer):
        inputs, outputs = layer.edges.cpu().numpy()
        return outputs, inputs, as_numpy(layer.weight)
    weight = layer.weight
    num_right, per_group = weight.shape[0], weight.shape[1]
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    outputs, within = np.divmod(np.arange(num_right * per_group), per_group)
    inputs = outputs // (num_right // groups) * per_group + within
    return outputs, inputs, as_numpy(weight.flatten(0, 1))


def as_numpy(values: Tensor) -> npt.NDArray[Any]:
    """The values, float32."""
    array: npt.NDArray[Any] = values.detach().cpu().float().numpy()
    return array
