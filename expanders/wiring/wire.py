"""Swap the layers of any model for sparse ones, wired by a graph model."""

import itertools
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import nn

from expanders import graphs
from expanders.errors import SettingError
from expanders.graphs import spectra
from expanders.seeds import stream
from expanders.wiring import degrees
from expanders.wiring.layer_report import LayerReport, Report
from expanders.wiring.layers import Edges, SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.operator import Execution

DenseLayer = nn.Conv2d | nn.Linear
Skip = Collection[str] | Callable[[str, nn.Module], bool]
Fan = Literal["dense", "live"]
DegreePolicy = Callable[..., list[int]]


def stem_and_head(model: nn.Module) -> Callable[[str, nn.Module], bool]:
    """The default skip rule: keep an ImageNet stem and the classifier dense.

    That is a first convolution with a stride, and the last linear layer. They are small, and
    every feature passes through them.
    """
    convs = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    stem = {name for name in convs[:1] if max(model.get_submodule(name).stride) > 1}  # type: ignore[arg-type]
    kept = stem | set(linears[-1:])
    return lambda name, module: name in kept


def sparsify(
    model: nn.Module,
    graph: degrees.GraphModel = graphs.rreg,
    degree: int | float | DegreePolicy = 3,
    seed: int = 0,
    *,
    skip: Skip | None = None,
    fan: Fan = "dense",
    measures: Literal["default", "full"] = "default",
    execution: Execution = "auto",
) -> Report:
    """Wire a model by random graphs, in place: swap its Conv2d and Linear layers for sparse ones.

    A sparse layer keeps the present values of the kernels on its edges, so a fresh model keeps its
    initialization and a trained one its weights. Each layer has its own graph, drawn from a stream
    keyed by `seed` and the layer's name. The bias of a convolution that a batch norm follows is
    left out, since the norm has one. Kept dense are, with a note in the report: what `skip` names,
    grouped convolutions, and layers that share their weight. `graph=graphs.dense` keeps the model
    as it is: the dense twin.

    Args:
        model: any module.
        graph: a graph model of `expanders.graphs`, or a partial of one.
        degree: average number of edges per channel of a layer's wider side, or a degree policy.
        seed: of the graphs.
        skip: names of layers to keep dense, or a function of name and module that tells;
            by default `stem_and_head`.
        fan: `"dense"` keeps the values; `"live"` divides them by the square root of the layer's
            density, which restores the scale of the outputs that the dense layer had.
        measures: which measures of the graphs to report, see `expanders.graphs.spectra`.
        execution: how sparse layers compute, see `expanders.wiring.operator`.

    Returns:
        What was done, layer by layer.

    Raises:
        SettingError: if a graph cannot be had, a skipped name does not exist, or a setting is
            unknown. The model is then unchanged.
    """
    if fan not in ("dense", "live"):
        raise SettingError("init.fan", fan, "must be dense or live")
    if execution not in get_args(Execution):
        raise SettingError("execution", execution, "must be auto, dense or sparse")
    reasons = _reasons_to_keep(model, skip)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    chosen = {name: layer for name, layer in layers.items() if name not in reasons}
    dense_parameters = _size(model)
    wiring = {}
    if not _is_dense(graph):
        weights = sum(layer.weight.numel() for layer in chosen.values())
        unneeded = sum(_bias_size(chosen[name]) for name in _convs_before_norm(model) & {*chosen})
        wiring = _draw(chosen, graph, degree, seed, dense_parameters - weights - unneeded)
    before = {name: _size(layer) for name, layer in layers.items()}
    swap(model, wiring)
    after = dict(model.named_modules())
    for name in wiring:
        layer = after[name]
        assert isinstance(layer, SparseLayer)
        layer.execution = execution
        if fan == "live":
            _rescale(layer)
    reports = [
        _describe(name, layer, after[name], before[name], graph, reasons.get(name), measures)
        for name, layer in layers.items()
    ]
    return Report(tuple(reports), _size(model), dense_parameters)


def swap(model: nn.Module, wiring: Mapping[str, Edges]) -> None:
    """Swap the named layers of `model`, in place, for sparse ones on the given edges."""
    before_norm = _convs_before_norm(model)
    aliases: dict[int, list[str]] = {}  # a module may sit in several places
    for name, module in model.named_modules(remove_duplicate=False):
        aliases.setdefault(id(module), []).append(name)
    for name, edges in wiring.items():
        dense = model.get_submodule(name)
        sparse: SparseLayer
        if isinstance(dense, nn.Conv2d):
            sparse = SparseConv2d.from_dense(dense, edges, bias=name not in before_norm)
        elif isinstance(dense, nn.Linear):
            sparse = SparseLinear.from_dense(dense, edges)
        else:
            raise SettingError("layer", name, f"is a {type(dense).__name__}, not Conv2d or Linear")
        for alias in aliases[id(dense)]:
            parent, _, child = alias.rpartition(".")
            setattr(model.get_submodule(parent), child, sparse)


def _reasons_to_keep(model: nn.Module, skip: Skip | None) -> dict[str, str]:
    """The layers that stay dense, each with the reason."""
    modules = dict(model.named_modules())
    rule = _as_rule(modules, stem_and_head(model) if skip is None else skip)
    owners: dict[int, int] = {}
    for module in modules.values():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    reasons = {}
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if type(module) not in (nn.Conv2d, nn.Linear) or name == "":
            # A subclass may use its weight elsewhere, as MultiheadAttention does.
            reasons[name] = f"kept: {type(module).__name__}"
        elif rule(name, module):
            reasons[name] = "kept: skipped"
        elif isinstance(module, nn.Conv2d) and module.groups > 1:
            reasons[name] = "kept: grouped convolution"
        elif owners.get(id(module.weight), 2) > 1:
            reasons[name] = "kept: shared weight"
    return reasons


def _as_rule(modules: Mapping[str, nn.Module], skip: Skip) -> Callable[[str, nn.Module], bool]:
    if callable(skip):
        return skip
    for name in skip:
        if name not in modules:
            layers = [n for n, m in modules.items() if isinstance(m, nn.Conv2d | nn.Linear)]
            raise SettingError("model.skip", name, f"no such layer; there are: {', '.join(layers)}")
    return lambda name, module: name in skip


def _is_dense(graph: degrees.GraphModel) -> bool:
    return _function(graph) is graphs.dense


def _draw(
    layers: Mapping[str, DenseLayer],
    graph: degrees.GraphModel,
    degree: int | float | DegreePolicy,
    seed: int,
    other_parameters: int,
) -> dict[str, Edges]:
    """The edges of every layer."""
    shapes = tuple(_shape(name, layer) for name, layer in layers.items())
    network = degrees.NetworkShape(shapes, other_parameters)
    policy = degree if callable(degree) else partial(degrees.constant, value=degree)
    wiring: dict[str, Edges] = {}
    for shape, budget in zip(shapes, policy(network, graph), strict=True):
        rng = stream(seed, "graph", shape.name)
        try:
            wiring[shape.name] = graph(shape.num_left, shape.num_right, budget, rng)
        except SettingError as error:
            raise SettingError(
                error.setting, error.value, f"layer {shape.name}: {error.remedy}"
            ) from None
    return wiring


def _shape(name: str, layer: DenseLayer) -> degrees.LayerShape:
    num_right, num_left, *kernel = layer.weight.shape
    height, width = kernel or (1, 1)
    return degrees.LayerShape(name, num_left, num_right, (height, width))


@torch.no_grad()
def _rescale(layer: SparseLayer) -> None:
    if layer.num_edges:
        layer.weight.mul_(layer.density**-0.5)


def _convs_before_norm(model: nn.Module) -> set[str]:
    """Convolutions that are directly followed by a batch norm in a Sequential."""
    names = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            children = list(module.named_children())
            for (child, conv), (_, norm) in itertools.pairwise(children):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    names.add(f"{name}.{child}" if name else child)
    return names


def _bias_size(layer: DenseLayer) -> int:
    return 0 if layer.bias is None else layer.bias.numel()


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _describe(
    name: str,
    dense: DenseLayer,
    layer: nn.Module,
    dense_size: int,
    graph: degrees.GraphModel,
    reason: str | None,
    measures: Literal["default", "full"],
) -> LayerReport:
    num_right, num_left = dense.weight.shape[:2]
    if not isinstance(layer, SparseLayer):
        shape = tuple(dense.weight.shape)
        edges = num_left * num_right
        size = _size(layer)
        return LayerReport(name, shape, "dense", edges, size, dense_size, 1.0, note=reason or "")
    values = dict(spectra.measure(layer.edges.cpu().numpy(), num_left, num_right, measures))
    values.pop("edges"), values.pop("density")  # the layer's own
    return LayerReport(
        name=name,
        shape=tuple(dense.weight.shape),
        graph=getattr(_function(graph), "__name__", repr(graph)),
        edges=layer.num_edges,
        live=_size(layer),
        dense=dense_size,
        density=layer.density,
        dead_outputs=int(values.pop("dead_outputs") or 0),
        unused_inputs=int(values.pop("unused_inputs") or 0),
        note="complete graph" if layer.density == 1 else "",
        measures=values,
    )


def _function(graph: degrees.GraphModel) -> degrees.GraphModel:
    return graph.func if isinstance(graph, partial) else graph
