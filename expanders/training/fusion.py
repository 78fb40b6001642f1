"""A captured network with batch norms joined with what follows, and other faster operators.

`torch.compile` captures a network as a graph of PyTorch's functions, however its modules are
written. In that graph, batch norms in training are replaced by `expanders.wiring.norm.batch_norm`,
together with what follows, if nothing else needs what lies between:

    ReLU, ReLU6, hardtanh;   ReLU and 2x2 max-pool;   addition and ReLU

Other max-pools, such as that of a ResNet's stem, become `expanders.wiring.pool.max_pool2d`, and
depthwise convolutions, such as those of a MobileNet, `expanders.wiring.depthwise.conv2d`.
The network itself is not touched: its modules, parameters and buffers stay what they are.
"""

import inspect
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from expanders.wiring import depthwise
from expanders.wiring.fold import MAX_POOLS, RELUS
from expanders.wiring.geometry import pair
from expanders.wiring.norm import RELU, RELU6, Bounds, batch_norm, can_pool, is_supported
from expanders.wiring.pool import max_pool2d, window

_ADDITION = (operator.add, operator.iadd, torch.add, "add", "add_")
_ADDITION_IN_PLACE = (operator.iadd, "add_")


def fuse_norms(graph: fx.Graph) -> int:
    """Replace the batch norms of a captured network by the operator; returns how many."""
    norms = [node for node in graph.nodes if node.target is F.batch_norm]
    return sum(_fuse(graph, norm) for norm in norms)


def replace_max_pools(graph: fx.Graph) -> int:
    """Replace the max-pools of a captured network by the operator; returns how many."""
    count = 0
    for node in graph.nodes:
        if _calls(node, MAX_POOLS):
            arguments = _arguments(node, max_pool2d)
            if window(_value(arguments.pop("input")), **arguments) is not None:
                node.target = max_pool2d
                count += 1
    return count


def replace_depthwise(graph: fx.Graph) -> int:
    """Replace depthwise convolutions of a captured network by the operator; returns how many."""
    count = 0
    for node in graph.nodes:
        if _calls(node, (torch.conv2d,)):
            given = _arguments(node, depthwise.conv2d)
            x, weight = _value(given["input"]), _value(given["weight"])
            if depthwise.is_faster_over_edges(x, weight, given["stride"], given["groups"]):
                node.target = depthwise.conv2d
                count += 1
    return count


def _fuse(graph: fx.Graph, norm: fx.Node) -> bool:
    """Replace one batch norm and what follows it, if the operator can compute it."""
    arguments = _arguments(norm, F.batch_norm)
    x, weight = arguments.pop("input"), arguments["weight"]
    if arguments["training"] is not True or not isinstance(arguments["momentum"], float):
        return False
    if not is_supported(_value(x), None if weight is None else _value(weight)):
        return False
    nodes, options = _followers(norm)
    if not _can_move(x, options.get("residual"), nodes):
        nodes, options = [norm], {}
    with graph.inserting_before(nodes[-1]):
        new = graph.call_function(batch_norm, (x,), {**arguments, **options})
    new.meta = dict(nodes[-1].meta)
    nodes[-1].replace_all_uses_with(new)
    for node in reversed(nodes):
        graph.erase_node(node)
    return True


def _can_move(x: fx.Node, residual: fx.Node | None, nodes: list[fx.Node]) -> bool:
    """Whether nothing that comes between the nodes takes, and may change, what they are given."""
    order = list(x.graph.nodes)
    between = order[order.index(nodes[0]) : order.index(nodes[-1])]
    inputs = {node for other in between if other not in nodes for node in other.all_input_nodes}
    return x not in inputs and residual not in inputs


def _followers(norm: fx.Node) -> tuple[list[fx.Node], dict[str, Any]]:
    """The batch norm and the nodes to be joined with it, and what these are to `batch_norm`."""
    line = [norm]
    while len(line) < 3 and len(line[-1].users) == 1:  # nothing else needs what lies between
        line.extend(line[-1].users)
    first = line[1] if len(line) > 1 else None
    second = line[2] if len(line) > 2 else None
    if (bounds := _bounds(first)) is not None:
        if second is not None and _is_supported_pool(second, norm, bounds):
            return line, {"bounds": bounds, "pool": True}
        return line[:2], {"bounds": bounds}
    # Of these only ReLU keeps its output for the gradient, as the operator does.
    if first is not None and _calls(first, _ADDITION) and _calls(second, RELUS):
        residual = _residual(first, norm)
        if residual is not None:
            return line, {"residual": residual, "bounds": RELU}
    return [norm], {}


def _bounds(node: fx.Node | None) -> Bounds | None:
    """What an activation clamps to; None if it is another one, or none."""
    if _calls(node, RELUS):
        return RELU
    if _calls(node, (F.relu6,)):
        return RELU6
    if node is not None and _calls(node, (F.hardtanh, F.hardtanh_)):
        arguments = _arguments(node, F.hardtanh)
        return float(arguments["min_val"]), float(arguments["max_val"])
    return None


def _residual(addition: fx.Node, norm: fx.Node) -> fx.Node | None:
    """What is added to the batch norm, if it is another tensor of the same shape and type."""
    if addition.kwargs or len(addition.args) != 2:
        return None
    if addition.args[0] is not norm and _calls(addition, _ADDITION_IN_PLACE):
        return None  # it changes the other tensor, which may be used again
    other = addition.args[1] if addition.args[0] is norm else addition.args[0]
    if other is norm or not isinstance(other, fx.Node):
        return None
    ours, theirs = _value(norm), _value(other)
    return other if (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype) else None


def _is_supported_pool(node: fx.Node, norm: fx.Node, bounds: Bounds) -> bool:
    """Whether it is a max-pool of 2x2 pixels at a time that leaves no rest and follows a ReLU."""
    if not _calls(node, MAX_POOLS):
        return False
    pool = _arguments(node, F.max_pool2d_with_indices)
    size, stride = pair(pool["kernel_size"]), pair(pool["stride"] or pool["kernel_size"])
    plain = pair(pool["padding"]) == (0, 0) and pair(pool["dilation"]) == (1, 1)
    whole = can_pool(_value(norm), bounds) and not pool["return_indices"]
    return size == stride == (2, 2) and plain and whole


def _calls(node: fx.Node | None, targets: tuple[Any, ...]) -> bool:
    return node is not None and node.op.startswith("call") and node.target in targets


def _value(node: fx.Node) -> torch.Tensor:
    """A tensor without data, of the shape and type that the node will have."""
    value: torch.Tensor = node.meta["example_value"]
    return value


def _arguments(node: fx.Node, function: Any) -> dict[str, Any]:
    """All arguments of a call by their names in `function`."""
    bound = inspect.signature(function).bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments
