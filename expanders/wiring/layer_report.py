"""The layers of a wired network: their edges, sizes and graphs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from expanders.graphs import spectra


@dataclass(frozen=True)
class LayerReport:
    """One convolution, linear layer, or other layer with a weight for pairs of features.

    Attributes:
        name: the layer's name in the model.
        shape: of the dense weight, (num_right, num_left, *kernel_size); of the largest one, where
            a layer that cannot be wired has several.
        graph: name of the graph model or method; `dense` for a dense layer; empty for one that was
            wired before.
        edges: kernels that exist.
        live, dense: parameters now and in the dense twin, biases included.
        density: share of the possible weights between its channels that exist.
        dead_outputs: output channels without an edge.
        unused_inputs: input channels without an edge.
        kept: why the layer was not left to the graph; empty if it was.
        measures: of the graph, see `expanders.graphs.spectra`.
    """

    name: str
    shape: tuple[int, ...]
    graph: str
    edges: int
    live: int
    dense: int
    density: float
    dead_outputs: int = 0
    unused_inputs: int = 0
    kept: str = ""
    measures: Mapping[str, float | int | None] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether every input channel has an edge to every output channel."""
        return self.edges == self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Report:
    """What `sparsify` did, layer by layer.

    Attributes:
        layers: one entry per layer that has a weight for pairs of features, in the model's order.
        live, dense: parameters of the whole network now and in its dense twin.
        network: measures of the network as a whole, see `expanders.wiring.connectivity`; empty
            until added.
        live_flops, dense_flops: operations per image, see `expanders.wiring.cost`; None until
            added.
        streams: the seed streams that the edges depend on.
        facts: numbers that a wiring method tells about its choice.
    """

    layers: tuple[LayerReport, ...]
    live: int
    dense: int
    network: Mapping[str, float | int | None] = field(default_factory=dict)
    streams: tuple[str, ...] = ()
    facts: Mapping[str, float] = field(default_factory=dict)
    live_flops: int | None = None
    dense_flops: int | None = None

    @property
    def edges(self) -> int:
        """Kernels of all layers that were left to the graph."""
        return sum(layer.edges for layer in self.layers if not layer.kept)

    def summary(self) -> dict[str, float | int | None]:
        """The graphs in a few numbers.

        Edges; `facts`; `spectra.summary` of the layers that have a graph, but not the complete one;
        `network`.
        """
        incomplete = [layer for layer in self.layers if not layer.kept and not layer.is_complete]
        measured = spectra.summary(dict(layer.measures) for layer in incomplete)
        return {"edges": self.edges, **self.facts, **measured, **self.network}

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return asdict(self) | {"summary": self.summary()}
