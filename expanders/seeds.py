"""Independent random streams, each named, all derived from one seed.

A stream is identified by its names (`"graph"`, the layer's name, ...) and by nothing else: it does
not depend on what was drawn before it, on other layers, on the process or on the machine.
"""

import hashlib
from collections.abc import Mapping
from operator import index
from typing import Any, Literal, get_args

import numpy as np

from expanders.errors import SettingError

Name = Literal[
    "graph",  # the edges of a layer
    "init",  # the initial weights of a layer
    "redraw",  # its weights after the edges were chosen, with init.redraw
    "split",  # training and validation images
    "wiring",  # the training images that a wiring method looks at
    "order",  # of the training images in an epoch
    "augmentation",  # of a step
    "dropout",  # of a step
    "digits",  # the test part of the digits
    "export",  # the images that an exported file is calibrated and measured on
]
"""What a stream is for."""

Seed = Literal["graph", "init", "data"]
"""The seeds of a run, `seeds.NAME`. Most streams are drawn from that of the data."""


def seed_of(settings: Mapping[str, Any], name: Seed) -> Any:
    """A seed of a run with these settings: `seeds.NAME`, or `seed` where that is null."""
    own = settings["seeds"].get(name)
    return settings["seed"] if own is None else own


def derive(seed: int, name: Name, *names: str | int) -> int:
    """A 63-bit seed for a stream of `seed`: what it is for, and more names to tell it from others.

    For generators that take one integer, such as `torch.Generator().manual_seed`. An unknown `name`
    raises ValueError: a misspelt one would otherwise be a new stream. A seed that is no whole
    number of at least 0 raises SettingError.
    """
    try:
        number = -1 if isinstance(seed, bool) else index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise SettingError("seed", seed, "give a whole number, 0 or more")
    if name not in get_args(Name):
        raise ValueError(f"no random stream is called {name!r}; there are {get_args(Name)}")
    digest = hashlib.sha256(repr((number, name, *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, name: Name, *names: str | int) -> np.random.Generator:
    """A NumPy generator for a stream of `seed`, see `derive`."""
    return np.random.default_rng(derive(seed, name, *names))
