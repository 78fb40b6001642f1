"""Pictures of graph models: the biadjacency matrix, and the histogram of singular values."""

from pathlib import Path

import numpy as np

from expanders.errors import SettingError
from expanders.graphs import spectra
from expanders.graphs.edges import FloatArray, GraphModel
from expanders.seeds import stream
from expanders.wiring.degrees import LayerShape

SEEDS = 10  # graphs in a histogram


def save(path: Path, models: dict[str, GraphModel], layer: LayerShape, num_edges: int) -> None:
    """Save a picture with one row per model: one graph, and the spectrum of ten.

    Dashed lines mark the edges of the bulk of a random biregular graph with these mean degrees,
    |sqrt(dL - 1) - sqrt(dR - 1)| and the Ramanujan bound sqrt(dL - 1) + sqrt(dR - 1) (Godsil and
    Mohar, 1988; the Marchenko-Pastur law of sparse regular matrices); a dotted line marks
    sqrt(dL dR), the first singular value of a biregular graph. What lies between the bound and the
    first singular value is lost expansion. Raises `SettingError` without matplotlib, or where the
    file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        remedy = "pictures need matplotlib: python -m pip install matplotlib"
        raise SettingError("save", path, remedy) from None
    drawn = {spec: _draw(model, layer, num_edges) for spec, model in models.items()}
    sigmas = {spec: np.linalg.svd(each, compute_uv=False).ravel() for spec, each in drawn.items()}
    largest = max(values.max() for values in sigmas.values())
    degrees = num_edges / layer.num_left, num_edges / layer.num_right
    roots = np.sqrt(np.maximum(np.subtract(degrees, 1), 0))
    figure = Figure(figsize=(9, 1 + 2.2 * len(models)), layout="constrained")
    rows = figure.subplots(len(models), 2, width_ratios=(1, 2), squeeze=False)
    for (matrix, histogram), spec in zip(rows, models, strict=True):
        matrix.imshow(drawn[spec][0].T, cmap="Greys", interpolation="nearest", aspect="auto")
        matrix.set(ylabel="output", title=spec)
        histogram.hist(sigmas[spec], bins=np.linspace(0, 1.02 * largest, 150), color="C0")
        histogram.set_yscale("log")  # the few largest values matter
        histogram.set(ylim=(0.7, None), ylabel=f"count in {SEEDS} graphs")
        for edge in (abs(roots[0] - roots[1]), roots.sum()):
            bulk = histogram.axvline(edge, color="black", linestyle="--")
        first = histogram.axvline(np.sqrt(np.prod(degrees)), color="C3", linestyle=":")
    rows[-1, 0].set_xlabel("input")
    rows[-1, 1].set_xlabel("singular value")
    figure.suptitle(f"{layer.name}, {num_edges} edges")
    labels = ["edges of the bulk of a random biregular graph", "first value of a biregular graph"]
    figure.legend([bulk, first], labels, loc="outside lower right", ncols=2)
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise SettingError("save", path, f"cannot write the picture: {error}") from None


def _draw(model: GraphModel, layer: LayerShape, num_edges: int) -> FloatArray:
    """The biadjacency matrices of SEEDS graphs, stacked."""
    shape = layer.num_left, layer.num_right
    rngs = [stream(seed, "graph", layer.name) for seed in range(SEEDS)]
    edges = [model(*shape, num_edges, rng) for rng in rngs]
    return np.stack([spectra.biadjacency(each, *shape).toarray() for each in edges])
