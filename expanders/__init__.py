"""Data-free pruning at initialization: networks wired as expander graphs.

model = expanders.models.vgg16bn(num_classes=10)
report = expanders.sparsify(model, graph=expanders.graphs.rreg, degree=3, seed=0)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expanders import data, graphs, models
    from expanders.errors import SettingError
    from expanders.export.c.compiled import CNetwork
    from expanders.export.writing import export_network
    from expanders.graphs import spectra
    from expanders.runs.checkpoint import Blueprint, load, save
    from expanders.wiring import degrees
    from expanders.wiring.fold import fold
    from expanders.wiring.initialization import initialize
    from expanders.wiring.layers import SparseConv2d, SparseLinear
    from expanders.wiring.wire import sparsify

_HOMES = {
    "Blueprint": "runs.checkpoint",
    "CNetwork": "export.c.compiled",
    "SettingError": "errors",
    "SparseConv2d": "wiring.layers",
    "SparseLinear": "wiring.layers",
    "export_network": "export.writing",
    "fold": "wiring.fold",
    "initialize": "wiring.initialization",
    "load": "runs.checkpoint",
    "save": "runs.checkpoint",
    "sparsify": "wiring.wire",
}

_ROOMS = {"degrees": "wiring.degrees", "spectra": "graphs.spectra"}

__all__ = [
    "Blueprint",
    "CNetwork",
    "SettingError",
    "SparseConv2d",
    "SparseLinear",
    "data",
    "degrees",
    "export_network",
    "fold",
    "graphs",
    "initialize",
    "load",
    "models",
    "save",
    "sparsify",
    "spectra",
]


def __getattr__(name: str) -> Any:
    # Imported when first used, so that work on graphs alone does not load PyTorch.
    if name in _HOMES:
        return getattr(import_module(f"expanders.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"expanders.{_ROOMS.get(name, name)}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
