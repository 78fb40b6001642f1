"""Tables for people: the layers of a sparse network, and the outcome of a run."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table

from expanders.sparsification import LayerReport, Report

_WIDTH = 120


def layer_table(report: Report) -> str:
    """Every layer of a network with its graph and its parameters, and a last line for the whole."""
    table = Table("layer", "shape", "graph", box=None, pad_edge=False)
    for column in ("edges", "live", "dense", "density", "dead out", "unused in", "σ2/bound"):
        table.add_column(column, justify="right")
    table.add_column("")
    for layer in report.layers:
        table.add_row(*_layer_row(layer))
    density = f"{report.live / report.dense:.4f}"
    total = ("network", "", "", f"{report.edges:,}", f"{report.live:,}", f"{report.dense:,}")
    table.add_row(*total, density, style="bold")
    return _text(table)


def summary_table(summary: Mapping[str, Any]) -> str:
    """The outcome of a run: accuracies, parameters, time."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for label, key, form in (
        ("test accuracy", "test/accuracy", ".2%"),
        ("validation accuracy", "val/accuracy", ".2%"),
        ("from epoch", "best_epoch", "d"),
        ("epochs", "epochs", "d"),
        ("live parameters", "params/live", ",d"),
        ("dense parameters", "params/dense", ",d"),
        ("edges", "graph/edges", ",d"),
        ("seconds", "seconds", ",.1f"),
    ):
        if summary.get(key) is not None:
            table.add_row(label, format(summary[key], form))
    return _text(table)


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
    ratio = layer.measures.get("ramanujan_ratio")
    return (
        layer.name,
        "x".join(str(size) for size in layer.shape),
        layer.graph,
        f"{layer.edges:,}",
        f"{layer.live:,}",
        f"{layer.dense:,}",
        f"{layer.density:.4f}",
        str(layer.dead_outputs),
        str(layer.unused_inputs),
        "" if ratio is None else f"{ratio:.3f}",
        layer.note,
    )


def _text(table: Table) -> str:
    console = Console(file=StringIO(), width=_WIDTH)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
