"""Images per second and memory of training images that stay on the disk, against images in memory.

    python benchmarks/stored.py --gigabytes 3

Makes a file of random images of that size, as decoding an image folder does, and reads random
batches from it, alone: no augmentation, no training. In turn, in every round:

- `in memory`: a part of the set that takes a thirty-second of it, as one tensor;
- `on disk, cached`: the same part from the file, after the system has read it before;
- `on disk, cold`: the whole set, of which nothing is in the system's cache when the round begins;
- `on disk, cold, in sequence`: the same in the order of the file, for what the disk gives.

The peak of the process's own memory (RssAnon) is sampled after every batch of the last two.
To see how it is with less memory than images, run it in a control group, such as with
`systemd-run --scope -p MemoryMax=768M python benchmarks/stored.py --gigabytes 3`.
"""

import argparse
import os
import re
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, spread

from expanders.data import Images, batches
from expanders.data.cache import Contents, cached


def made(root: Path, num_images: int, side: int) -> tuple[Path, Images]:
    """A file of random images, with its images."""
    one = np.random.default_rng(0).integers(256, size=(3, side, side), dtype=np.uint8)
    origins = np.arange(num_images, dtype=np.uint64)
    labels = ([0] * (num_images - 1), [0])
    contents = Contents(root, labels, side, side, origins, lambda i: one ^ np.uint8(i % 251))
    path = root / "set.cache"
    return path, cached(path, "key", "disk", lambda: contents)[0]


def forget(path: Path) -> None:
    """Let the system drop what it has of a file in its cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def own_memory() -> int:
    """Bytes of memory that are this process's alone, without pages of files."""
    found = re.search(r"^RssAnon:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    assert found
    return int(found[1]) * 1024


def read(images: Images, batch_size: int, in_sequence: bool = False) -> tuple[float, int]:
    """Images per second over one epoch of batches, and the largest own memory meanwhile."""
    order = torch.arange(len(images)) if in_sequence else torch.randperm(len(images))
    peak, start = 0, time.perf_counter()
    for pixels, _ in batches(images, batch_size, order):
        assert len(pixels) <= batch_size
        peak = max(peak, own_memory())
    return len(images) / (time.perf_counter() - start), peak


def main() -> None:
    """Measure, and print medians with their range."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=3, help="of the file")
    parser.add_argument("--side", type=int, default=224, help="of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="on the disk to measure")
    options = parser.parse_args()

    num_images = int(options.gigabytes * 1e9) // (3 * options.side**2)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        start = time.perf_counter()
        path, images = made(Path(folder), num_images, options.side)
        seconds = time.perf_counter() - start
        part = images[: num_images // 32]
        before = own_memory()
        in_memory = Images(part.pixels.read(), part.labels)
        rates: dict[str, list[float]] = {}
        peaks: dict[str, list[int]] = {}

        def measure(name: str, images: Images, in_sequence: bool = False) -> None:
            rate, peak = read(images, options.batch_size, in_sequence)
            rates.setdefault(name, []).append(rate)
            peaks.setdefault(name, []).append(peak)

        for _ in range(options.rounds):
            measure("in memory", in_memory)
            read(part, options.batch_size)
            measure("on disk, cached", part)
            forget(path)
            measure("on disk, cold", images)
            forget(path)
            measure("on disk, cold, in sequence", images, in_sequence=True)
        size = path.stat().st_size

    print(
        f"{machine(torch.get_num_threads())}; {num_images} images 3x{options.side}x{options.side}, "
        f"{size / 1e9:.2f} GB, written at {size / seconds / 1e6:.0f} MB/s; batches of "
        f"{options.batch_size}, {options.rounds} rounds"
    )
    for name, values in rates.items():
        median, low, high = statistics.median(values), min(values), max(values)
        mb = 3 * options.side**2 / 1e6
        print(
            f"{name:28} {median:8,.0f} images/s ({low:,.0f} to {high:,.0f}), "
            f"{median * mb:6,.0f} MB/s; own memory at most {max(peaks[name]) / 1e6:,.0f} MB"
        )
    print(f"own memory before the part in memory was read: {before / 1e6:,.0f} MB")
    pairs = zip(rates["on disk, cached"], rates["in memory"], strict=True)
    print(f"on disk, cached / in memory: {spread([ours / theirs for ours, theirs in pairs])}")


if __name__ == "__main__":
    main()
