"""Networks for inference: norms and ReLUs become part of convolutions, max-pools an operator."""

import copy
import inspect
import logging
from collections import Counter
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from expanders.errors import one_line
from expanders.wiring.layers import SparseConv2d, SparseLayer
from expanders.wiring.pool import max_pool2d
from expanders.wiring.unstructured import UnstructuredConv2d

_log = logging.getLogger(__name__)
_CONVOLUTIONS = (nn.Conv2d, SparseConv2d, UnstructuredConv2d)  # not what is derived from them
RELUS = (F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")
MAX_POOLS = (F.max_pool2d, torch.max_pool2d)


def fold(model: nn.Module) -> nn.Module:
    """A copy for inference, in evaluation mode: equal to rounding, and faster.

    Each batch norm right after a convolution is folded into it, live kernels and dense ones alike,
    sparse convolutions apply the ReLU that follows, and max-pools are computed by
    `expanders.wiring.pool.max_pool2d`. A network whose flow of tensors cannot be traced by
    `torch.fx` stays as it is, and a warning says so. Convolutions and norms that are used more than
    once stay apart.

    >>> fast = expanders.fold(expanders.load("runs/.../best.pt"))
    """
    network = without_norms(model)
    if isinstance(network, fx.GraphModule):
        _absorb_relus(network)
        _replace_max_pools(network)
        network.delete_all_unused_submodules()
        network.recompile()
    return network


def _absorb_relus(network: fx.GraphModule) -> None:
    modules = dict(network.named_modules(remove_duplicate=False))
    once = _used_once(network)
    for node in list(network.graph.nodes):
        source = _source(node) if _is_relu(node, modules) else None
        if source is not None and source in once:
            conv = modules[str(source.target)]
            if isinstance(conv, SparseConv2d):
                conv.relu = True
                node.replace_all_uses_with(source)
                network.graph.erase_node(node)


def _replace_max_pools(network: fx.GraphModule) -> None:
    modules = dict(network.named_modules(remove_duplicate=False))
    names = list(inspect.signature(max_pool2d).parameters)[1:]
    for node in network.graph.nodes:
        if node.op == "call_function" and node.target in MAX_POOLS:
            node.target = max_pool2d
        elif node.op == "call_module" and type(modules[node.target]) is nn.MaxPool2d:
            node.kwargs = {name: getattr(modules[node.target], name) for name in names}
            node.op, node.target = "call_function", max_pool2d


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return type(modules[str(node.target)]) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in RELUS


def without_norms(model: nn.Module) -> nn.Module:
    """A copy in which each batch norm right after a convolution is folded into it.

    A network whose flow of tensors cannot be traced keeps its norms, and so do convolutions and
    norms that are used more than once, or whose weights others have too or are computed anew in
    every call (weight norm and the like).
    """
    model = copy.deepcopy(model).eval()
    try:
        network = fx.GraphModule(model, _Tracer().trace(model))
    except Exception as error:  # a tracer fails in as many ways as Python has
        _log.warning("batch norms are not folded: %s", one_line(error))
        return model
    modules = dict(network.named_modules(remove_duplicate=False))
    once = _used_once(network)
    for call in [node for node in network.graph.nodes if node.op == "call_module"]:
        norm, source = modules[str(call.target)], _source(call)
        if not isinstance(norm, nn.BatchNorm2d) or source is None or not {call, source} <= once:
            continue
        conv = modules[str(source.target)]
        is_plain = type(conv) in _CONVOLUTIONS and "weight" in dict(conv.named_parameters())
        if is_plain and norm.running_var is not None:
            _fold(conv, norm)
            call.replace_all_uses_with(source)
            network.graph.erase_node(call)
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _source(node: fx.Node) -> fx.Node | None:
    """The call of a module whose result a node takes as its first input, if nothing else does."""
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) > 1:
        return None
    return source


def _used_once(network: fx.GraphModule) -> set[fx.Node]:
    """The calls of modules that are called once, and whose parameters nothing else has or reads."""
    modules = dict(network.named_modules(remove_duplicate=False))
    called, uses = {}, Counter[int]()
    for node in network.graph.nodes:
        if node.op == "call_module":
            module = called[node] = modules[node.target]
            uses.update({id(module), *map(id, module.parameters())})
        elif node.op == "get_attr":
            uses[id(attrgetter(node.target)(network))] += 1
    return {
        call
        for call, module in called.items()
        if all(uses[id(each)] == 1 for each in (module, *module.parameters()))
    }


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, SparseLayer) or super().is_leaf_module(module, name)


@torch.no_grad()
def scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a batch norm does to each channel in evaluation mode: multiply, then add."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.affine:
        scale = norm.weight * scale
    shift = -norm.running_mean * scale
    return scale, norm.bias + shift if norm.affine else shift


@torch.no_grad()
def _fold(conv: nn.Conv2d | SparseConv2d, norm: nn.BatchNorm2d) -> None:
    """Give `conv` the scale and the shift of the batch norm after it."""
    scale, shift = scale_and_shift(norm)
    per_kernel = scale[conv.edges[1]] if isinstance(conv, SparseConv2d) else scale
    conv.weight.mul_(per_kernel.view(-1, *[1] * (conv.weight.ndim - 1)))
    conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias * scale + shift)
