"""Write a traced network as calls of the loops in `layers.c`, with its weights as constants."""

import operator
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from expanders.errors import SettingError
from expanders.export import plain
from expanders.export.c.constants import Constants, as_numpy
from expanders.export.c.memory import Plane, Step, place
from expanders.export.c.source import BLOCK, Source, text_of
from expanders.wiring.fold import scale_and_shift, without_norms
from expanders.wiring.geometry import side
from expanders.wiring.layers import SparseConv2d, SparseLinear

_ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu",
    F.relu: "relu",
    torch.relu: "relu",
    nn.ReLU6: "relu6",
    F.relu6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.Hardswish: "hardswish",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Sigmoid: "sigmoid",
    torch.sigmoid: "sigmoid",
    nn.SiLU: "silu",
    F.silu: "silu",
    nn.GELU: "gelu",
    F.gelu: "gelu",
}
_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d, nn.Flatten, F.dropout, torch.flatten, "flatten")
_MEANS = (nn.AdaptiveAvgPool2d, F.adaptive_avg_pool2d, torch.mean, "mean")
_SUMS = (operator.add, operator.iadd, torch.add, "add", "add_")


def c_source(
    network: nn.Module, size: int, mean: Sequence[float], std: Sequence[float], name: str
) -> Source:
    """The C file of a network.

    Args:
        network: in evaluation mode; maps normalised images (N, 3, size, size) to logits.
        size: side length of the images, in pixels.
        mean, std: of the pixels, per channel, in units of 0..255.
        name: what the first comment of the file calls the network.

    Raises:
        SettingError: if there is no loop for a layer of the network; it names the layer.
    """
    folded = without_norms(plain.whole_kernels(network))
    if not isinstance(folded, fx.GraphModule):
        raise _unsupported("a flow of tensors that cannot be traced")
    ShapeProp(folded).propagate(torch.zeros(1, 3, size, size))
    writer = _Writer(folded, np.asarray(mean, float), np.asarray(std, float))
    return writer.source(name)


class _Writer:
    def __init__(
        self, network: fx.GraphModule, mean: npt.NDArray[Any], std: npt.NDArray[Any]
    ) -> None:
        self.modules = dict(network.named_modules())
        self.constants = Constants()
        self.steps: list[Step] = []
        self.planes: dict[fx.Node, Plane] = {}
        self.flattened: list[Plane] = []
        for node in network.graph.nodes:
            if node.op == "placeholder":
                scale, shift = (
                    self.constants.array("scale", 1 / std),
                    self.constants.array("shift", -mean / std),
                )
                self._append(node, [], f"normalise(pixels, {{out}}, {scale}, {shift});")
            elif node.op == "output":
                self._finish(node.args[0])
            else:
                self._add(node)

    def _add(self, node: fx.Node) -> None:
        """Add the step of one node, if it does anything to values in memory."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        what: Any = node.target if module is None else type(module)
        if isinstance(module, nn.Linear | SparseLinear):
            self._linear(node, module)
        elif isinstance(module, nn.Conv2d | SparseConv2d):
            self._conv(node, module)
        elif isinstance(module, nn.BatchNorm2d):
            self._norm(node, module)
        elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            self._pool(node, module)
        elif what in _MEANS:
            self._mean(node)
        elif what in _NOTHING:
            self._keep(node)
        elif what in _ACTIVATIONS and _is_default(node, module):
            self._activate(node, _ACTIVATIONS[what])
        elif what in _SUMS and not node.kwargs and all(isinstance(a, fx.Node) for a in node.args):
            self._append(node, node.args, "add({in}, {out}, {activation});", activation="none")
        elif what is operator.getitem and (stride := _stride(node)) is not None:
            self._append(node, node.args[:1], f"subsample({{in}}, {{out}}, {stride}, 0);")
        elif what is F.pad and (before := _channels_before(node)) is not None:
            self._append(node, node.args[:1], f"subsample({{in}}, {{out}}, 1, {before});")
        else:
            raise _unsupported(getattr(what, "__name__", str(what)), node)

    def _append(
        self, node: fx.Node, inputs: Sequence[Any], form: str, activation: str | None = None
    ) -> Step:
        """Add a step whose call is `form`, with all its tensors and its activation filled in."""
        output = self.planes[node] = Plane(_shape(node))
        sources = [self.planes[source] for source in inputs]
        flat = [plane for plane in sources if plane in self.flattened and "linear(" not in form]
        if flat or ("add(" in form and sources[0].shape != sources[1].shape):
            raise _unsupported("an operation on tensors of other shapes", node)

        def call(step: Step) -> str:
            places = ", ".join(map(str, step.inputs))
            values = {"in": places, "out": str(step.output), "activation": step.activation}
            return re.sub(r"{(in|out|activation)}", lambda match: str(values[match[1]]), form)

        step = Step(sources, output, call, activation, in_place=activation is not None)
        self.steps.append(step)
        return step

    # ---------------------------------------------------------------------------------- layers

    def _conv(self, node: fx.Node, conv: nn.Conv2d | SparseConv2d) -> None:
        if conv.padding_mode != "zeros":
            raise _unsupported(f"padding_mode={conv.padding_mode}", node)
        (height, width), (stride, across) = conv.kernel_size, conv.stride
        dilation = conv.dilation[0]
        if stride != across or dilation != conv.dilation[1]:
            raise _unsupported("a stride or dilation of two numbers", node)
        left, right, top, bottom = plain.margins(conv)
        kernel = f"(Kernel){{{height}, {width}, {stride}, {dilation}, {top}, {left}}}"
        form = f"conv({{in}}, {{out}}, {self.constants.edges(conv)}, {kernel}, {{activation}});"
        step = self._append(node, node.args[:1], form, activation="none")
        step.in_place = False
        (source,) = step.inputs
        source.margin = max(source.margin, left, right, top, bottom)
        _, rows, columns = step.output.shape

        def positions() -> int:
            row = source.pitch if stride == 1 else columns
            return -(-((rows - 1) * row + columns) // BLOCK) * BLOCK

        step.scratch = positions
        step.overhang = lambda: positions() + height * dilation * (source.pitch + 1)

    def _linear(self, node: fx.Node, layer: nn.Linear | SparseLinear) -> None:
        form = f"linear({{in}}, {{out}}, {self.constants.edges(layer)}, {{activation}});"
        self._append(node, node.args[:1], form, activation="none").in_place = False

    def _norm(self, node: fx.Node, norm: nn.BatchNorm2d) -> None:
        scale, shift = (as_numpy(values) for values in scale_and_shift(norm))
        names = f"{self.constants.array('scale', scale)}, {self.constants.array('shift', shift)}"
        form = f"scale_and_shift({{in}}, {{out}}, {names}, {{activation}});"
        self._append(node, node.args[:1], form, activation="none")

    def _activate(self, node: fx.Node, name: str) -> None:
        """Let the step before apply the function, if its result is not needed without."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        plane = self.planes[source]
        aliases = {other for other, known in self.planes.items() if known is plane}
        readers = {user for alias in aliases for user in alias.users} - aliases
        step = next(step for step in self.steps if step.output is plane)
        if step.activation != "none" or len(readers) > 1:
            step = self._append(node, [source], "copy({in}, {out}, {activation});", "none")
        step.activation = name
        self.planes[node] = step.output

    def _pool(self, node: fx.Node, pool: nn.MaxPool2d | nn.AvgPool2d) -> None:
        is_mean = isinstance(pool, nn.AvgPool2d)
        names = ("kernel_size", "stride", "padding", "dilation")
        size, stride, padding, dilation = (side(getattr(pool, name, 1)) for name in names)
        is_odd = pool.ceil_mode or getattr(pool, "divisor_override", None) is not None
        if None in (size, stride, padding, dilation) or is_odd:
            raise _unsupported(str(pool), node)
        if not is_mean and (size, stride, padding, dilation) == (2, 2, 0, 1):
            self._append(node, node.args[:1], "max_pool_2x2({in}, {out});")
            return
        kernel = f"(Kernel){{{size}, {size}, {stride}, {dilation}, {padding}, {padding}}}"
        padded = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad
        form = f"pool({{in}}, {{out}}, {kernel}, {int(is_mean)}, {int(padded)});"
        self._append(node, node.args[:1], form)

    def _mean(self, node: fx.Node) -> None:
        """The mean of each channel's image, whichever way the network asks for it."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        channels, height, width = _shape(source)
        if _shape(node) != (channels, 1, 1):
            raise _unsupported(f"a mean of shape {_shape(node)}", node)
        if height == width == 1:
            self.planes[node] = self.planes[source]
            return
        kernel = f"(Kernel){{{height}, {width}, 1, 1, 0, 0}}"
        self._append(node, [source], f"pool({{in}}, {{out}}, {kernel}, 1, 0);")

    def _keep(self, node: fx.Node) -> None:
        """The same values under another name, flattened or not."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        plane = self.planes[node] = self.planes[source]
        if _shape(node) != plane.shape:
            self.flattened.append(plane)

    def _finish(self, node: Any) -> None:
        plane = self.planes.get(node)
        if not self.steps or plane is not self.steps[-1].output or plane.shape[1:] != (1, 1):
            raise _unsupported("an output that is not one list of logits")
        plane.name = "logits"

    # ---------------------------------------------------------------------------------- the file

    def source(self, name: str) -> Source:
        """The whole file."""
        if any(plane.margin for plane in self.flattened):
            raise _unsupported("a tensor that is both flattened and convolved")
        values = place(self.steps) + max(step.overhang() for step in self.steps)
        sums = max(step.sums for step in self.steps)
        unshared = sum(step.output.size for step in self.steps) + sums
        calls = [step.call(step) for step in self.steps]
        channels, height, width = self.steps[0].output.shape
        facts = {
            "NETWORK_CHANNELS": channels,
            "NETWORK_HEIGHT": height,
            "NETWORK_WIDTH": width,
            "NETWORK_CLASSES": self.steps[-1].output.shape[0],
            "NETWORK_READ_ONLY_BYTES": self.constants.num_bytes,
            "NETWORK_WORKING_BYTES": 4 * (values + sums),
        }
        texts = self.constants.texts
        text = text_of(name, facts, texts, calls, num_values=values, num_sums=sums)
        return Source(text, self.constants.num_bytes, 4 * (values + sums), 4 * unshared)


def _shape(node: fx.Node) -> tuple[int, int, int]:
    """Channels, height and width of a node's tensor; of a list of features, (features, 1, 1)."""
    shape: tuple[int, ...] = tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))
    if len(shape) not in (2, 4):
        raise _unsupported(f"a tensor of shape {shape}", node)
    height, width = shape[2:] or (1, 1)
    return shape[1], height, width


def _is_default(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether an activation has none of the options that there is no C for."""
    slope, form = getattr(module, "negative_slope", 0.01), getattr(module, "approximate", "none")
    options = (*node.args[1:], *node.kwargs.values())
    only_in_place = all(isinstance(value, bool) for value in options)
    return slope == 0.01 and form == "none" and only_in_place


def _stride(node: fx.Node) -> int | None:
    """s of `x[:, :, ::s, ::s]`, or None for other parts of a tensor."""
    index = node.args[1]
    everything = slice(None)
    if not isinstance(index, tuple) or len(index) != 4 or index[:2] != (everything, everything):
        return None
    steps = {part.step if isinstance(part, slice) else None for part in index[2:]}
    stride = steps.pop()
    whole = all(part == slice(None, None, stride) for part in index[2:])
    return stride if whole and not steps and isinstance(stride, int) else None


def _channels_before(node: fx.Node) -> int | None:
    """How many zero channels a padding adds before the others; None if it adds anything else."""
    _, amounts, mode, value = (*node.args, *node.kwargs.values(), "constant", None)[:4]
    if mode != "constant" or value or not isinstance(amounts, tuple | list):
        return None
    is_of_channels = len(amounts) == 6 and not any(amounts[:4])
    return int(amounts[4]) if is_of_channels else None


def _unsupported(what: str, node: fx.Node | None = None) -> SettingError:
    where = "" if node is None else f" at {node.target if node.op == 'call_module' else node.name}"
    return SettingError("format", "c", f"there is no C for {what}{where}; use onnx")
