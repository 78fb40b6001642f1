"""Independent random streams, each named, all derived from one seed.

A stream is identified by its names (`"graph"`, the layer's name, ...) and by nothing else: it does
not depend on what was drawn before it, on other layers, on the process or on the machine.
"""

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` of `seed`.

    For generators that take one integer, such as `torch.Generator().manual_seed`.
    """
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A NumPy generator for the stream `names` of `seed`."""
    return np.random.default_rng(derive(seed, *names))
