"""By what a run was computed: software, hardware and how they were used."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from expanders.training.arithmetic import Arithmetic


def provenance(arithmetic: Arithmetic) -> dict[str, Any]:
    """Versions, the commit of a checkout, the processor, and how many threads of it were used."""
    is_gpu = arithmetic.device == "cuda"
    return {
        "expanders": importlib.metadata.version("expanders"),
        "commit": commit(),
        "pytorch": arithmetic.pytorch,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if is_gpu else processor(),
        "processes": arithmetic.processes,
        "threads": arithmetic.threads,
        "precision": arithmetic.precision,
        "compile": arithmetic.compilation.compile,
        "norm": arithmetic.compilation.norm,
    }


def commit() -> str | None:
    """The commit of the checkout that this package is in; `-dirty` if files were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # installed, perhaps into another project's checkout
        return None
    try:
        said = subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() or None


def processor() -> str:
    """The name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
