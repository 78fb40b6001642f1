"""How much memory a run needs."""

import contextlib
import resource
import sys
from pathlib import Path

import torch


class PeakMemory:
    """The most memory that a run has needed: of its GPU, or without one of its process."""

    _runs = 0  # of this process

    def __init__(self, device: torch.device) -> None:
        self._device = device
        PeakMemory._runs += 1
        # On the CPU, what earlier runs of the process needed could not be told from its own.
        self._is_known = device.type == "cuda" or PeakMemory._runs == 1
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def bytes(self) -> int | None:
        """Bytes since this object was made; None where they are not known."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _peak_of_process() if self._is_known else None


def _peak_of_process() -> int:
    """Bytes of memory that this process had at most at one time."""
    with contextlib.suppress(OSError):  # Linux, where getrusage counts those before `exec` too
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
