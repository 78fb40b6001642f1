"""Look at graph models without training: a table over many seeds, and a picture.

    python -m expanders.graphs rreg xnet rewired:p=0.5 --shape 64x64 --degree 3 --save graphs.png

Models are named as in `expanders.graphs`, your own by their dotted name (mypkg.ring); options
follow a colon, separated by commas. Without names all models are shown. Several shapes and degrees
make one table each. The budget is the same for all: degree * max(num_left, num_right) edges, at
most all pairs. The columns are means over the graphs drawn, of sigma2 / bound the least and the
largest too; `expanders.graphs.spectra` says what they measure.
"""

import argparse
import ast
import inspect
import math
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from expanders import graphs
from expanders.errors import SettingError
from expanders.graphs import spectra
from expanders.graphs.edges import GraphModel, IntArray, check_edges
from expanders.seeds import stream

HEADER = (
    f"{'sigma2/bound':>14s}{'min':>7s}{'max':>7s}{'Ramanujan':>11s}{'gap':>7s}"
    f"{'components':>12s}{'4-cycles':>10s}{'dead ends':>11s}{'CPU ms':>8s}"
)
Models = dict[str, GraphModel]
Shape = tuple[int, int]


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and save the picture that the command line asks for."""
    parser = argparse.ArgumentParser(
        "python -m expanders.graphs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", default=graphs.__all__, metavar="MODEL")
    parser.add_argument("--shape", nargs="+", default=["64x64"], help="inputs x outputs")
    parser.add_argument("--degree", nargs="+", type=float, default=[3.0])
    parser.add_argument("--seeds", type=int, default=20, help="graphs drawn of each model")
    parser.add_argument("--save", type=Path, help="picture of the first shape and degree")
    options = parser.parse_args(arguments)
    try:
        models = {spec: parse_model(spec) for spec in options.models}
        shapes = [parse_shape(shape) for shape in options.shape]
        budgets = [(s, degree, budget(s, degree)) for s in shapes for degree in options.degree]
        if options.seeds < 1:
            raise SettingError("seeds", options.seeds, "draw at least one graph")
        if options.save:
            save(options.save, models, shapes[0], budgets[0][2])
        for shape, degree, num_edges in budgets:
            print(f"\n{_name(shape)}, degree {degree:g}: {num_edges} edges, {options.seeds} seeds")
            width = max(map(len, models))
            print(f"{'model':{width}s}{HEADER}")
            for spec, model in models.items():
                values = row(model, shape, num_edges, options.seeds)
                print(f"{spec:{width}s}{values}", flush=True)
    except SettingError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    except MemoryError as error:
        parser.exit(2, f"{parser.prog}: a graph of this shape does not fit into memory: {error}\n")


def parse_model(spec: str) -> GraphModel:
    """The graph model that a name with options, such as `rewired:p=0.5`, stands for."""
    name, _, tail = spec.partition(":")
    model = _find(name)
    parameters = list(inspect.signature(model).parameters.values())[4:]
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters)
    choices = [each.name for each in parameters]
    options: dict[str, Any] = {}
    for item in filter(None, tail.split(",")):
        option, _, text = item.partition("=")
        if option not in choices and not takes_any:
            raise SettingError(name, item, f"its options are {', '.join(choices) or 'none'}")
        text = text.title() if text in ("true", "false") else text
        try:
            options[option] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[option] = text
    return partial(model, **options)


def parse_shape(text: str) -> Shape:
    """The numbers of inputs and outputs that `64x128` stands for."""
    left, _, right = text.partition("x")
    if not (left.isdigit() and right.isdigit() and int(left) and int(right)):
        raise SettingError("shape", text, "give inputs x outputs, such as 64x128")
    return int(left), int(right)


def budget(shape: Shape, degree: float) -> int:
    """The number of edges that every model gets."""
    if not 1 <= degree < math.inf:
        raise SettingError("degree", degree, "give a number of at least 1")
    return round(min(degree * max(shape), shape[0] * shape[1]))


def draw(model: GraphModel, shape: Shape, num_edges: int, seed: int) -> IntArray:
    """The graph of one seed. Raises `SettingError` if it is none, as a model of one's own may."""
    edges = model(*shape, num_edges, stream(seed, "graph", _name(shape)))
    check_edges(edges, *shape)
    return edges


def row(model: GraphModel, shape: Shape, num_edges: int, seeds: int) -> str:
    """The line of one model below `HEADER`: its measures over the seeds."""
    measured, seconds = [], 0.0
    for seed in range(seeds):
        start = time.process_time()
        edges = draw(model, shape, num_edges, seed)
        seconds += time.process_time() - start
        measured.append(spectra.measure(edges, *shape))
    ratios = _values(measured, "ramanujan_ratio")
    gap, cycles, components, met = (
        np.mean(_values(measured, key))
        for key in ("normalised_gap", "four_cycles", "components", "ramanujan")
    )
    dead_ends = sum(np.mean(_values(measured, key)) for key in ("dead_outputs", "unused_inputs"))
    return (
        f"{np.mean(ratios):14.3f}{min(ratios):7.3f}{max(ratios):7.3f}{met:11.0%}{gap:7.3f}"
        f"{components:12.1f}{cycles:10.4g}{dead_ends:11.1f}{1e3 * seconds / seeds:8.1f}"
    )


def save(path: Path, models: Models, shape: Shape, num_edges: int) -> None:
    """Save a picture of the models: of each the graph of seed 0.

    Raises `SettingError` without matplotlib, or where the file cannot be written.
    """
    try:
        from expanders.graphs.picture import Panel, figure
    except ImportError:
        remedy = "pictures need matplotlib: python -m pip install matplotlib"
        raise SettingError("save", path, remedy) from None
    panels = [
        Panel(spec, draw(model, shape, num_edges, 0), *shape) for spec, model in models.items()
    ]
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        figure(panels).savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise SettingError("save", path, f"cannot write the picture: {error}") from None


def _find(name: str) -> GraphModel:
    """The model of `expanders.graphs` with this name, or the function with this dotted name."""
    if name in graphs.__all__:
        return getattr(graphs, name)  # type: ignore[no-any-return]
    module, _, attribute = name.rpartition(".")
    if not module:
        choices = ", ".join(graphs.__all__)
        raise SettingError("model", name, f"choose from {choices}, or give a dotted name")
    try:
        model = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingError("model", name, f"cannot be imported: {error}") from None
    if not inspect.isroutine(model) and not isinstance(model, partial):
        raise SettingError("model", name, f"is a {type(model).__name__}, not a function")
    return model


def _name(shape: Shape) -> str:
    return f"{shape[0]}x{shape[1]}"


def _values(measured: Iterable[spectra.Measures], key: str) -> list[float]:
    """The values of a measure where it is defined, else one that is not a number."""
    return [value for each in measured if (value := each.get(key)) is not None] or [math.nan]


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # what reads the output, such as `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
