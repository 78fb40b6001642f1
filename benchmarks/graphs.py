"""CPU-seconds to draw and measure the graphs of whole networks, against networkx and NumPy.

    python benchmarks/graphs.py

Ours: every sparse layer has its own `rreg` graph, selected to meet the Ramanujan bound, with the
default measures. The other side does the same work in the usual way, in the same run: a
configuration model of networkx per layer, parallel edges dropped, and NumPy's singular values of
the dense biadjacency matrix; nothing is selected and nothing else is measured. Both run on one
thread, since threads that wait for each other would count as CPU time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import networkx as nx
import numpy as np
import torch
from common import machine
from threadpoolctl import threadpool_limits

from expanders import degrees, graphs, models, spectra
from expanders.seeds import stream
from expanders.wiring.eligible import stem_and_head

CASES = [("vgg16bn", 3), ("vgg16bn", 15), ("vgg16bn", 60), ("resnet50", 3), ("resnet152", 3)]
Layers = list[tuple[degrees.LayerShape, int]]


def ours(layers: Layers, seed: int) -> float:
    """Draw and measure all graphs; the share of them that meets the Ramanujan bound."""
    met = 0
    for layer, num_edges in layers:
        shape = layer.num_left, layer.num_right
        edges = graphs.rreg(*shape, num_edges, stream(seed, "graph", layer.name))
        met += int(spectra.measure(edges, *shape)["ramanujan"] or 0)
    return met / len(layers)


def usual(layers: Layers, seed: int) -> float:
    """Configuration model and dense singular values; the share that meets the Ramanujan bound."""
    met = 0
    for number, (layer, num_edges) in enumerate(layers):
        sides = [
            [num_edges // size + (i < num_edges % size) for i in range(size)]
            for size in (layer.num_left, layer.num_right)
        ]
        multigraph = nx.bipartite.configuration_model(*sides, seed=1000 * seed + number)
        graph = nx.Graph(multigraph)
        rows, columns = range(layer.num_left), range(layer.num_left, graph.number_of_nodes())
        matrix = nx.bipartite.biadjacency_matrix(graph, rows, columns, dtype=float).toarray()
        second = np.linalg.svd(matrix, compute_uv=False)[1] if min(matrix.shape) > 1 else 0.0
        bound = sum(np.sqrt(graph.number_of_edges() / size - 1) for size in matrix.shape)
        met += int(second <= bound * (1 + 1e-9))
    return met / len(layers)


def layers_of(network: str, degree: int) -> Layers:
    """The sparse layers of a network and their numbers of edges, at equal budgets."""
    with torch.device("meta"):
        model = getattr(models, network)()
    skip = stem_and_head(model)
    shapes = tuple(
        degrees.LayerShape(name, *reversed(module.weight.shape[:2]))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and not skip(name, module)
    )
    budget = degrees.constant(degrees.NetworkShape(shapes), graphs.rreg, value=degree)
    return list(zip(shapes, budget, strict=True))


def cpu_seconds(
    work: Callable[[Layers, int], float], layers: Layers, seed: int
) -> tuple[float, float]:
    """CPU time, and what the work returns."""
    with threadpool_limits(1):
        start = time.process_time()
        result = work(layers, seed)
        return time.process_time() - start, result


def main() -> None:
    """Print one line per network and degree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of ours; the other side has one")
    options = parser.parse_args()
    print(f"{machine(num_threads=1)}, NumPy {np.__version__}, networkx {nx.__version__}")
    print(
        f"{'network':10s}{'degree':>7s}{'layers':>7s}{'edges':>9s}{'ours, CPU s':>20s}"
        f"{'Ramanujan':>10s}{'usual, CPU s':>13s}{'Ramanujan':>10s}{'ratio':>7s}"
    )
    for network, degree in CASES:
        layers = layers_of(network, degree)
        ours(layers[:2], seed=0)  # first calls load code
        rounds = [cpu_seconds(ours, layers, seed) for seed in range(options.rounds)]
        seconds = [taken for taken, _ in rounds]
        met = statistics.mean(share for _, share in rounds)
        other, other_met = cpu_seconds(usual, layers, seed=0)
        median = statistics.median(seconds)
        spread = f"{median:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        print(
            f"{network:10s}{degree:7d}{len(layers):7d}{sum(count for _, count in layers):9d}"
            f"{spread:>20s}{met:10.1%}{other:13.1f}{other_met:10.1%}{other / median:6.0f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
