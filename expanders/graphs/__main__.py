"""Look at graph models without training: a table over many seeds, and a picture.

    python -m expanders.graphs rreg xnet rewired:p=0.5 --shape 64x64 --degree 3 --save graphs.png

Models are named as in `expanders.graphs`, options follow a colon, separated by commas. Without
names all models are shown. Several shapes and degrees make one table each. The budget is the same
for all: degree * max(num_left, num_right) edges, at most all pairs.
"""

import argparse
import ast
import inspect
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from expanders import graphs
from expanders.errors import SettingError
from expanders.graphs import spectra
from expanders.graphs.edges import GraphModel
from expanders.seeds import stream
from expanders.wiring.degrees import LayerShape, NetworkShape, constant

HEADER = (
    f"{'':26s}{'sigma2 / bound':^21s}   {'normalised gap':^21s}\n"
    f"{'model':26s}{'mean':>7s}{'min':>7s}{'max':>7s}   {'mean':>7s}{'min':>7s}{'max':>7s}"
    f"{'Ramanujan':>11s}{'components':>12s}{'dead+unused':>13s}{'CPU ms':>9s}"
)


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
        layers = [parse_shape(shape) for shape in options.shape]
        if options.seeds < 1:
            raise SettingError("seeds", options.seeds, "draw at least one graph")
        if options.save:
            from expanders.graphs.picture import save

            save(options.save, models, layers[0], budget(layers[0], options.degree[0]))
        for layer in layers:
            for degree in options.degree:
                print(table(models, layer, degree, options.seeds), flush=True)
    except SettingError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def parse_model(spec: str) -> GraphModel:
    """The graph model that a name with options, such as `rewired:p=0.5`, stands for."""
    name, _, tail = spec.partition(":")
    if name not in graphs.__all__:
        raise SettingError("model", name, f"choose from {', '.join(graphs.__all__)}")
    model = getattr(graphs, name)
    choices = list(inspect.signature(model).parameters)[4:]
    options: dict[str, Any] = {}
    for item in filter(None, tail.split(",")):
        option, _, text = item.partition("=")
        if option not in choices:
            raise SettingError(name, item, f"its options are {', '.join(choices) or 'none'}")
        text = text.title() if text in ("true", "false") else text
        try:
            options[option] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[option] = text
    return partial(model, **options)


def parse_shape(text: str) -> LayerShape:
    """The layer shape that `64x128` stands for."""
    left, _, right = text.partition("x")
    if not (left.isdigit() and right.isdigit()):
        raise SettingError("shape", text, "give inputs x outputs, such as 64x128")
    return LayerShape(text, int(left), int(right))


def budget(layer: LayerShape, degree: float) -> int:
    """The number of edges that every model gets."""
    return constant(NetworkShape((layer,)), graphs.rreg, value=degree)[0]


def table(models: dict[str, GraphModel], layer: LayerShape, degree: float, seeds: int) -> str:
    """A line per model: its measures over the seeds."""
    num_edges = budget(layer, degree)
    title = f"\n{layer.name}, degree {degree:g}: {num_edges} edges, {seeds} seeds"
    lines = [_line(spec, model, layer, num_edges, seeds) for spec, model in models.items()]
    return "\n".join([title, HEADER, *lines])


def _line(spec: str, model: GraphModel, layer: LayerShape, num_edges: int, seeds: int) -> str:
    measured, seconds = [], 0.0
    for seed in range(seeds):
        start = time.process_time()
        edges = model(layer.num_left, layer.num_right, num_edges, stream(seed, "graph", layer.name))
        seconds += time.process_time() - start
        measured.append(spectra.measure(edges, layer.num_left, layer.num_right))
    dead = _mean(measured, "dead_outputs") + _mean(measured, "unused_inputs")
    return (
        f"{spec:26s}{_range(measured, 'ramanujan_ratio')}   {_range(measured, 'normalised_gap')}"
        f"{_mean(measured, 'ramanujan'):11.0%}{_mean(measured, 'components'):12.1f}{dead:13.1f}"
        f"{1e3 * seconds / seeds:9.1f}"
    )


def _values(measured: list[spectra.Measures], key: str) -> list[float]:
    return [value for values in measured if (value := values.get(key)) is not None]


def _mean(measured: list[spectra.Measures], key: str) -> float:
    return float(np.mean(_values(measured, key) or [np.nan]))


def _range(measured: list[spectra.Measures], key: str) -> str:
    values = _values(measured, key) or [np.nan]
    return "".join(f"{value:7.3f}" for value in (np.mean(values), min(values), max(values)))


if __name__ == "__main__":
    main()
