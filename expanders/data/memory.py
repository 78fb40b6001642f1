"""How much memory can be had."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch


def available_bytes(device: torch.device) -> int:
    """The memory that a process can still take on `device`.

    On the CPU the least of what the machine has left and of what its control groups, such as those
    of a container or of a Slurm job, allow.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min([_of_the_machine(), *_of_control_groups()])


def _of_the_machine() -> int:
    with suppress(OSError):
        if found := re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.M):
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _of_control_groups() -> Iterator[int]:
    """What every group around this process has left; of both versions of control groups."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root = Path("/sys/fs/cgroup") / controllers
            group = root / name.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    yield from _left_in(folder)


def _left_in(group: Path) -> Iterator[int]:
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError, TypeError):  # ValueError: the limit is "max"
            stat = (group / "memory.stat").read_text()
            reclaimable = re.search(rf"^{cached} (\d+)", stat, re.M)
            used_bytes = int((group / used).read_text()) - int(reclaimable[1])  # type: ignore[index]
            yield int((group / limit).read_text()) - used_bytes
