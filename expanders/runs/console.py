"""What a run prints: the layers of its network, its progress, and its outcome."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from torch import nn

from expanders.training import metrics
from expanders.training.trainer import Trainer
from expanders.wiring.layer_report import LayerReport, Report
from expanders.wiring.layers import SparseLayer

_WIDTH = 200  # columns take what they need; nothing is cut


def layer_table(report: Report, model: nn.Module) -> str:
    """Every layer of a network, and the network as a whole.

    Shape, graph, edges, parameters, dead ends, gap (1 - normalised sigma2) and sigma2 over the
    Ramanujan bound; and whether the layer is computed over its edges (sparse) or densely.
    """
    table = Table("layer", "shape", "graph", box=None, pad_edge=False)
    for column in ("edges", "live", "dense", "density", "dead out", "unused in", "gap", "σ2/bound"):
        table.add_column(column, justify="right")
    table.add_column("execution")
    table.add_column("")
    modules = dict(model.named_modules())
    for layer in report.layers:
        module = modules[layer.name]
        execution = module.chosen_execution() if isinstance(module, SparseLayer) else "dense"
        table.add_row(*_layer_row(layer), execution, _remark(layer))
    density = f"{report.live / report.dense:.4f}"
    total = ("network", "", "", f"{report.edges:,}", f"{report.live:,}", f"{report.dense:,}")
    table.add_row(*total, density, style="bold")
    return "\n".join([_text(table), *_network_line(report)])


def summary_table(summary: Mapping[str, Any]) -> str:
    """The outcome of a run: accuracies, parameters, time."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for label, key, form in (
        ("test accuracy", metrics.TEST_ACCURACY, ".2%"),
        ("test accuracy of five guesses", metrics.TEST_TOP5_ACCURACY, ".2%"),
        ("validation accuracy", metrics.VAL_ACCURACY, ".2%"),
        ("best epoch", metrics.BEST_EPOCH, "d"),
        ("epochs", metrics.EPOCHS, "d"),
        ("live parameters", metrics.LIVE_PARAMETERS, ",d"),
        ("dense parameters", metrics.DENSE_PARAMETERS, ",d"),
        ("edges", metrics.EDGES, ",d"),
        ("operations per image", metrics.LIVE_FLOPS, ",d"),
        ("operations of the dense twin", metrics.DENSE_FLOPS, ",d"),
        ("peak memory, bytes", metrics.PEAK_MEMORY, ",d"),
        ("started from", metrics.STARTED_FROM, "s"),
        ("seconds", metrics.SECONDS, ",.1f"),
        ("seconds of the first step, compiling included", metrics.FIRST_STEP_SECONDS, ",.1f"),
    ):
        if summary.get(key) is not None:
            table.add_row(label, format(summary[key], form))
    return _text(table)


@contextmanager
def progress_bar(trainer: Trainer) -> Iterator[Callable[[int], None]]:
    """A bar for one epoch, on a terminal; yields what to call with the images of each step."""
    console = Console(stderr=True)
    label = f"epoch {trainer.epoch + 1}/{trainer.settings.epochs}"
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(label, total=len(trainer.train))
        yield lambda images: bar.advance(task, images)


def epoch_line(trainer: Trainer) -> str:
    """The last epoch in one line."""
    row = trainer.history[-1]
    total = trainer.settings.epochs
    per_epoch = sum(each[metrics.SECONDS] for each in trainer.history) / trainer.epoch
    left = round(per_epoch * (total - trainer.epoch))
    parts = [
        f"epoch {trainer.epoch:>{len(str(total))}}/{total}",
        f"loss {row[metrics.TRAIN_LOSS]:.4f}",
        f"train {row[metrics.TRAIN_ACCURACY]:.2%}",
    ]
    if metrics.VAL_ACCURACY in row:
        parts.append(f"val {row[metrics.VAL_ACCURACY]:.2%}")
    parts += [
        f"lr {row[metrics.LEARNING_RATE]:.2g}",
        f"{row[metrics.IMAGES_PER_SECOND]:.0f} images/s",
        f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left",
    ]
    if metrics.FIRST_STEP_SECONDS in row:
        parts.append(f"first step {row[metrics.FIRST_STEP_SECONDS]:.1f} s")
    return "  ".join(parts)


def _layer_row(layer: LayerReport) -> tuple[str, ...]:
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
        _number(layer.measures.get("normalised_gap")),
        _number(layer.measures.get("ramanujan_ratio")),
    )


def _remark(layer: LayerReport) -> str:
    """What is not to be seen from a layer's numbers."""
    if layer.kept:
        return f"kept: {layer.kept}"
    return "complete graph" if layer.is_complete and layer.measures else ""


def _network_line(report: Report) -> list[str]:
    """Dead ends and paths of the whole network, where they were measured."""
    network = report.network
    if not network:
        return []
    paths = network["log10_paths"]
    return [
        f"{network['effective_share']:.1%} of the weights lie on a path from input to output; "
        f"{network['dead_outputs']} outputs get no input, {network['unused_inputs']} inputs reach "
        f"no output" + ("" if paths is None else f"; 10^{paths:.1f} paths")
    ]


def _number(value: float | int | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _text(table: Table) -> str:
    console = Console(file=StringIO(), width=_WIDTH)
    with console.capture() as capture:
        console.print(table)
    return capture.get().rstrip()
