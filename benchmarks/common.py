"""What the benchmarks share: what they ran on, and how a spread is written."""

import os
import platform
import statistics
from collections.abc import Sequence

import torch

from expanders.runs.provenance import processor


def machine(num_threads: int) -> str:
    """Processor, threads, load and versions."""
    return (
        f"{processor()}, {num_threads} of {os.cpu_count()} threads, "
        f"load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def spread(ratios: Sequence[float]) -> str:
    """The median with the first and the last quartile."""
    low, middle, high = statistics.quantiles([*ratios] * 2, n=4)  # of one, too
    return f"{middle:6.2f} ({low:.2f} to {high:.2f})"
