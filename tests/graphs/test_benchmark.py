"""The benchmark of graphs looks at the layers that a run would wire."""

from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_benchmark_takes_the_layers_and_budgets_of_networks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = import_module("graphs")
    layers = benchmark.layers_of("vgg16bn", 3)
    assert len(layers) == 14  # all convolutions, and the linear layer before the last
    assert 0 < benchmark.ours(layers[:2], seed=0) <= 1
    assert 0 < benchmark.usual(layers[:2], seed=0) <= 1
