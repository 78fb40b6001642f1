"""The densities at which sparse and dense execution are equally fast, on this machine.

    python benchmarks/densities.py

`execution=auto` computes a layer over its edges up to the density that stands in
`expanders.wiring.operator.is_faster_sparse`. This repeats the measurement that the rule rests on:
forward and backward of layers of one kind and several sizes, over edges at growing densities, and
densely, as the faster of contiguous and channels-last. Every round runs each variant once, in turn.
Printed is the density at which the median ratio of times crosses 1, and the rule's.
"""

import argparse
import os
import statistics

import torch
from common import machine
from torch import nn
from training import Run, timed

from expanders import graphs
from expanders.seeds import stream
from expanders.training.device import keep_freed_memory
from expanders.wiring.layers import SparseConv2d, SparseLinear
from expanders.wiring.operator import is_faster_sparse

DENSITIES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1.0)
Size = tuple[int, int, int, int]  # channels in and out, side in pixels or tokens, batch
# Kind, options of the convolution (None: linear), sizes.
KINDS: tuple[tuple[str, dict[str, int] | None, tuple[Size, ...]], ...] = (
    (
        "3x3",
        {"kernel_size": 3, "padding": 1},
        ((3, 64, 32, 128), (64, 64, 32, 32), (256, 256, 8, 128), (512, 512, 4, 128)),
    ),
    (
        "3x3 stride 2",
        {"kernel_size": 3, "padding": 1, "stride": 2},
        ((64, 64, 32, 64), (256, 256, 16, 64), (512, 512, 8, 128)),
    ),
    ("1x1", {"kernel_size": 1}, ((64, 64, 32, 32), (256, 256, 16, 64), (512, 512, 4, 128))),
    ("linear", None, ((512, 512, 1, 128), (768, 768, 196, 4))),
)


def layer_and_input(options: dict[str, int] | None, size: Size) -> tuple[nn.Module, torch.Tensor]:
    """A dense layer and what it takes."""
    left, right, side, batch = size
    if options is None:
        return nn.Linear(left, right), torch.randn(batch, side, left, requires_grad=True)
    images = torch.randn(batch, left, side, side, requires_grad=left > 3)  # not of a first layer
    return nn.Conv2d(left, right, bias=False, **options), images


def both_ways(layer: nn.Module, x: torch.Tensor) -> Run:
    """Forward and backward, as a function."""
    x = x.detach().requires_grad_(x.requires_grad)
    slope = torch.randn_like(layer(x))

    def run() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x).backward(slope)

    return run


def crossing(options: dict[str, int] | None, size: Size, rounds: int) -> str:
    """The density of equal speed, by linear interpolation, or beyond which one it lies."""
    torch.manual_seed(0)
    dense, x = layer_and_input(options, size)
    runs = {"dense": both_ways(dense, x)}
    if options is not None:
        last = torch.channels_last
        twin, images = layer_and_input(options, size)
        runs["channels last"] = both_ways(
            twin.to(memory_format=last), images.contiguous(memory_format=last)
        )
    kind = SparseLinear if options is None else SparseConv2d
    left, right, *_ = size
    for density in DENSITIES:
        count = round(density * left * right)
        edges = graphs.rreg(left, right, count, stream(0, "graph", "densities"))
        layer = kind.from_dense(dense, edges)
        layer.execution = "sparse"
        runs[density] = both_ways(layer, x)
    times: dict[object, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(timed(run))
    medians = {key: statistics.median(values) for key, values in times.items()}
    best = min(value for key, value in medians.items() if isinstance(key, str))
    ratios = [best / medians[density] for density in DENSITIES]
    if ratios[0] < 1:
        return f"below {DENSITIES[0]}"
    for i in range(1, len(ratios)):
        if ratios[i] < 1:
            share = (ratios[i - 1] - 1) / (ratios[i - 1] - ratios[i])
            return f"{DENSITIES[i - 1] + share * (DENSITIES[i] - DENSITIES[i - 1]):.2f}"
    return f"above {DENSITIES[-1]}"


def rule(options: dict[str, int] | None, num_left: int) -> float:
    """The largest density, in hundredths, that the rule computes over edges."""
    kernel = (options["kernel_size"],) * 2 if options else ()
    stride = ((options or {}).get("stride", 1),) * 2
    return max(i / 100 for i in range(101) if is_faster_sparse(i / 100, num_left, kernel, stride))


def main() -> None:
    """Measure all kinds and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    print(f"{machine(options.threads)}; {options.rounds} rounds")
    print("layer            in  out  side  batch | equal at   rule")
    for name, arguments, sizes in KINDS:
        for size in sizes:
            equal = crossing(arguments, size, options.rounds)
            left, right, side, batch = size
            print(
                f"{name:14} {left:4} {right:4} {side:5} {batch:6} | {equal:10} "
                f"{rule(arguments, left):.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
