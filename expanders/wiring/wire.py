"""Swap the layers of any model for sparse ones, on the edges that a wiring method chose."""

import logging
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from expanders import graphs
from expanders.errors import SettingError, check_choice
from expanders.graphs import spectra
from expanders.wiring import degrees
from expanders.wiring.draw import DegreePolicy, LabelledImages, Wiring, WiringMethod, draw
from expanders.wiring.eligible import Skip, all_layers_of, norms_after
from expanders.wiring.layer_report import LayerReport, Report
from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.linear import without_fused_transformers
from expanders.wiring.operator import Execution
from expanders.wiring.unstructured import UnstructuredConv2d

Fan = Literal["dense", "live"]
_log = logging.getLogger(__name__)


def sparsify(
    model: nn.Module,
    graph: WiringMethod = graphs.rreg,
    degree: int | float | DegreePolicy = 3,
    seed: int = 0,
    *,
    skip: Skip | None = None,
    images: LabelledImages | None = None,
    granularity: degrees.Granularity = "kernel",
    fan: Fan = "dense",
    measures: spectra.Extent = "default",
    execution: Execution = "auto",
) -> Report:
    """Wire a model, in place: `draw` its edges, then `wire` it.

    Args:
        model: any module.
        graph: a graph model of `expanders.graphs`, a partial of one, or a method such as
            `expanders.wiring.scored.Scored`. `graphs.dense` keeps the model as it is: the dense
            twin.
        degree: average number of edges per channel of a layer's wider side, or a degree policy.
        seed: of the graphs.
        skip: names of layers to keep dense, or a function of name and module that tells;
            by default `stem_and_head`.
        images: labelled training images, for a method that asks for them.
        granularity: what an edge carries, a "kernel" or a single "weight" of one; the number of
            weights is the same. Layers of single weights compute over the kernels that have any,
            where these are few.
        fan, measures, execution: see `wire`.

    Returns:
        What was done, layer by layer.

    Raises:
        SettingError: if edges cannot be had, a skipped name does not exist, or a setting is
            unknown. The model is then unchanged.
    """
    check_options(fan, measures, execution)
    wiring = draw(model, graph, degree, seed, skip=skip, images=images, granularity=granularity)
    return wire(model, wiring, fan=fan, measures=measures, execution=execution)


def wire(
    model: nn.Module,
    wiring: Wiring,
    *,
    fan: Fan = "dense",
    measures: spectra.Extent = "default",
    execution: Execution = "auto",
) -> Report:
    """Swap a dense model's layers, in place, for sparse ones on the edges of a wiring.

    A sparse layer keeps the present values of the kernels on its edges, so a fresh model keeps its
    initialization and a trained one its weights. The bias of a convolution that a batch norm
    follows is left out, since the norm has one; its running mean then lacks that bias too.

    Args:
        model: the dense model, or one of the same layers.
        wiring: its edges, from `draw` or a checkpoint.
        fan: `"dense"` keeps the values; `"live"` divides them by the square root of the layer's
            density, which restores the scale of the outputs that the dense layer had.
        measures: which measures of the graphs to report, see `expanders.graphs.spectra`.
        execution: how sparse layers compute, see `expanders.wiring.operator`.

    Raises:
        SettingError: if a setting is unknown or the wiring does not fit; the model is then
            unchanged.
    """
    check_options(fan, measures, execution)
    dense = all_layers_of(model)
    sizes = {name: _own_size(layer) for name, layer in dense.items()}
    before = [layer for layer in dense.values() if isinstance(layer, SparseLayer)]
    dense_parameters = _size(model) + sum(_dense_size(each) - _own_size(each) for each in before)
    sparse = _sparse_layers(model, wiring)
    for layer in sparse.values():
        layer.execution = execution
        if fan == "live":
            _rescale(layer)
    reports = [
        _describe_wired(name, sparse[name], wiring.method, sizes[name], measures)
        if name in sparse
        else _describe_kept(name, layer, wiring.kept.get(name, ""), sizes[name], measures)
        for name, layer in dense.items()
    ]
    _leave_biases_out(model, sparse)
    _put(model, sparse)
    return Report(
        layers=tuple(reports),
        live=_size(model),
        dense=dense_parameters,
        streams=wiring.streams,
        facts=wiring.facts,
    )


def swap(model: nn.Module, wiring: Wiring) -> None:
    """Put sparse layers in place of dense ones, as `wire` does, and report nothing."""
    _put(model, _sparse_layers(model, wiring))


def granularity_of(model: nn.Module) -> degrees.Granularity:
    """What the edges of a wired model carry."""
    single = any(isinstance(module, UnstructuredConv2d) for module in model.modules())
    return "weight" if single else "kernel"


def check_options(fan: str, measures: str, execution: str) -> None:
    """Check the options of `wire`.

    Raises:
        SettingError: with the first one that is unknown.
    """
    check_choice("init.fan", fan, Fan)
    check_choice("graph.measures", measures, spectra.Extent)
    check_choice("execution", execution, Execution)


def _sparse_layers(model: nn.Module, wiring: Wiring) -> dict[str, SparseLayer]:
    """The layers to put in place of dense ones, by name."""
    before_norm = norms_after(model)
    layers: dict[str, SparseLayer] = {}
    for name, edges in wiring.edges.items():
        try:
            dense = model.get_submodule(name)
        except AttributeError:
            raise SettingError("layer", name, "the wiring has it, and the model has not") from None
        try:
            if isinstance(dense, nn.Conv2d):
                single = wiring.granularity == "weight" and math.prod(dense.kernel_size) > 1
                kind = UnstructuredConv2d if single else SparseConv2d
                layers[name] = kind.from_dense(dense, edges, bias=name not in before_norm)
            elif isinstance(dense, nn.Linear):
                layers[name] = SparseLinear.from_dense(dense, edges)
            else:
                remedy = f"is a {type(dense).__name__}, not Conv2d or Linear"
                raise SettingError("layer", name, remedy)
        except SettingError as error:
            remedy = f"{wiring.method}, layer {name}: {error.remedy}"
            raise SettingError(error.setting, error.value, remedy) from None
    return layers


@torch.no_grad()
def _leave_biases_out(model: nn.Module, layers: dict[str, SparseLayer]) -> None:
    """Take from running means the biases that stay behind in the dense layers."""
    for name, norm in norms_after(model).items():
        bias = model.get_submodule(name).bias
        if name in layers and isinstance(bias, Tensor) and norm.running_mean is not None:
            norm.running_mean -= bias.to(norm.running_mean.dtype)


def _put(model: nn.Module, layers: dict[str, SparseLayer]) -> None:
    """Put layers in place of those of their names, wherever these sit."""
    aliases: dict[int, list[str]] = {}  # a module may sit in several places
    for name, module in model.named_modules(remove_duplicate=False):
        aliases.setdefault(id(module), []).append(name)
    for name, layer in layers.items():
        dense = model.get_submodule(name)
        if dense._forward_hooks or dense._forward_pre_hooks or dense._backward_hooks:
            _log.warning("layer %s: the hooks of the dense layer are left out", name)
        for alias in aliases[id(dense)]:
            parent, _, child = alias.rpartition(".")
            setattr(model.get_submodule(parent), child, layer)
    if layers:
        without_fused_transformers(model)


@torch.no_grad()
def _rescale(layer: SparseLayer) -> None:
    if layer.weight.numel():
        layer.weight.mul_(layer.density**-0.5)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _own_size(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in _own_parameters(layer))


def _own_parameters(layer: nn.Module) -> list[nn.Parameter]:
    own = [*layer.parameters(recurse=False)]
    if parametrize.is_parametrized(layer):  # what its weight is computed from
        own += layer.parametrizations.parameters()  # type: ignore[union-attr]
    return own


def _dense_size(layer: SparseLayer) -> int:
    """Parameters of the dense layer in the place of a sparse one, but for a bias that it lacks."""
    weights = layer.num_right * layer.num_left * math.prod(layer.kernel_size)
    return weights + (0 if layer.bias is None else layer.bias.numel())


def _describe_kept(
    name: str, layer: nn.Module, reason: str, size: int, measures: spectra.Extent
) -> LayerReport:
    if isinstance(layer, SparseLayer):
        return _describe_wired(name, layer, "", _dense_size(layer), measures, reason)
    weights = [p for p in _own_parameters(layer) if p.ndim > 1]
    shape = tuple(max(weights, key=Tensor.numel).shape)
    return LayerReport(name, shape, "dense", shape[0] * shape[1], size, size, 1.0, kept=reason)


def _describe_wired(
    name: str,
    layer: SparseLayer,
    method: str,
    dense_size: int,
    measures: spectra.Extent,
    kept: str = "",
) -> LayerReport:
    edges = layer.channel_edges()[0].cpu().numpy()
    values = dict(spectra.measure(edges, layer.num_left, layer.num_right, measures))
    for told_of_the_layer in ("edges", "density"):
        del values[told_of_the_layer]
    return LayerReport(
        name=name,
        shape=(layer.num_right, layer.num_left, *layer.kernel_size),
        graph=method,
        edges=edges.shape[1],
        live=_size(layer),
        dense=dense_size,
        density=layer.density,
        dead_outputs=int(values.pop("dead_outputs") or 0),
        unused_inputs=int(values.pop("unused_inputs") or 0),
        kept=kept,
        measures=values,
    )
