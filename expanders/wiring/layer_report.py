"""What became of a network's layers when it was made sparse."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from expanders.graphs import spectra


@dataclass(frozen=True)
class LayerReport:
    """What became of one convolution or linear layer.

    Attributes:
        name: the layer's name in the model.
        shape: of the dense weight, (num_right, num_left, *kernel_size).
        graph: name of the graph model; `dense` where the layer was kept.
        edges: kernels that exist.
        live, dense: parameters now and in the dense twin, biases included.
        density: edges / (num_left * num_right).
        dead_outputs: output channels without an edge.
        unused_inputs: input channels without an edge.
        note: why the layer was kept, or that its budget was clipped to the complete graph.
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
    note: str = ""
    measures: Mapping[str, float | int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What `sparsify` did, layer by layer.

    Attributes:
        layers: one entry per convolution and linear layer, in the model's order.
        live, dense: parameters of the whole network now and in its dense twin.
        network: measures of the network as a whole, see `expanders.wiring.connectivity`; empty
            until added.
    """

    layers: tuple[LayerReport, ...]
    live: int
    dense: int
    network: Mapping[str, float | int | None] = field(default_factory=dict)

    @property
    def edges(self) -> int:
        """Kernels of all layers that the skip rule left to the graph model."""
        return sum(layer.edges for layer in self.layers if not layer.note.startswith("kept"))

    def summary(self) -> dict[str, float | int | None]:
        """The graphs in a few numbers.

        Edges; `spectra.summary` of the layers that are neither kept nor complete; `network`.
        """
        graphs_of_layers = [dict(layer.measures) for layer in self.layers if not layer.note]
        return {"edges": self.edges, **spectra.summary(graphs_of_layers), **self.network}

    def to_dict(self) -> dict[str, Any]:
        """As plain containers, for JSON."""
        return asdict(self) | {"summary": self.summary()}
