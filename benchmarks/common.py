"""What the benchmarks share: what they ran on, and how a spread is written."""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch


def machine(num_threads: int) -> str:
    """Processor, threads, load and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor()
    return (
        f"{processor}, {num_threads} of {os.cpu_count()} threads, "
        f"load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )


def spread(ratios: Sequence[float]) -> str:
    """The median with the first and the last quartile."""
    low, middle, high = statistics.quantiles([*ratios] * 2, n=4)  # of one, too
    return f"{middle:6.2f} ({low:.2f} to {high:.2f})"
