"""Graph models: which input channel of a layer is connected to which output channel.

Every model here is a function of one signature,

    model(num_left, num_right, num_edges, rng, **options) -> edges

with left = input channels, right = output channels, and `edges` an int64 array of shape
(2, num_edges): row 0 holds left vertices, row 1 right vertices; the edges are distinct and sorted
by (right, left). All randomness comes from `rng`, a `numpy.random.Generator`. An impossible budget
raises `SettingError`. A new graph model is one such function and one file in `conf/graph/`.
"""

from expanders.graphs.controls import blocks, circulant, rewired
from expanders.graphs.lifts import lift
from expanders.graphs.literature import diagonal, scale_free
from expanders.graphs.regular import rreg
from expanders.graphs.simple import dense, random, xnet

__all__ = [
    "blocks",
    "circulant",
    "dense",
    "diagonal",
    "lift",
    "random",
    "rewired",
    "rreg",
    "scale_free",
    "xnet",
]
