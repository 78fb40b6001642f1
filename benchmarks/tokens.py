"""Cost of sparse layers beyond the networks of the paper: tokens, and networks for 224 pixels.

    python benchmarks/tokens.py
    python benchmarks/tokens.py --part layers
    python benchmarks/tokens.py --part networks --network mobilenet_v2 --rounds 3

Forward and backward of linear layers over tokens, and whole training steps of torchvision's
networks on random images. Of vit_b_16 the multilayer perceptrons are wired (the projections of its
attention stay dense), of the others all convolutions and linear layers but depthwise ones, the stem
and the head. Graphs of `rreg`. Every round runs each variant once, in turn; a ratio is the time of
the best dense variant by the time of our best one in the same round. Printed are medians, with the
first and last quartile of the ratios.
"""

import argparse
import os
import statistics
from collections.abc import Mapping

import torch
from common import machine, spread
from torch import nn
from torch.nn import functional as F
from training import LAYOUTS, Run, prepared, timed

from expanders import models
from expanders.training.device import keep_freed_memory
from expanders.wiring.wire import sparsify

LAYERS = ((768, 768), (768, 3072), (3072, 768))
NETWORKS = ("vit_b_16", "convnext_tiny", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0")
HEADER = f"{'':22} degree | dense, ms            | ours, ms             | ratio (quartiles)"


def layer_pass(inputs: int, outputs: int, degree: int | None) -> Run:
    """Forward and backward of a linear layer over 8 images of 196 tokens, as a function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, outputs))
    if degree is not None:
        sparsify(model, degree=degree, skip=())
    x = torch.randn(8, 196, inputs, requires_grad=True)
    slope = torch.randn(8, 196, outputs)

    def run() -> None:
        x.grad = None
        model.zero_grad()
        model(x).backward(slope)

    return run


def network_step(name: str, degree: int | None, how: str, batch_size: int) -> Run:
    """One whole training step on images of 224 pixels, as a function."""
    torch.manual_seed(0)
    plain = models.torchvision(name)
    if degree is not None:
        sparsify(plain, degree=degree)
    model, x = prepared(plain.train(), torch.randn(batch_size, 3, 224, 224), how)
    labels = torch.randint(10, (batch_size,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def compare(label: str, degree: int, runs: Mapping[tuple[str, str], Run], rounds: int) -> str:
    """One line of a table. The keys are dense or ours, and how it runs."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    for run in runs.values():  # compilation and first allocations
        run()
        run()
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(timed(run))
    medians = {key: statistics.median(values) for key, values in times.items()}
    dense, ours = (
        min((key for key in runs if key[0] == side), key=lambda key: medians[key])
        for side in ("dense", "ours")
    )
    ratios = [d / o for d, o in zip(times[dense], times[ours], strict=True)]
    return (
        f"{label:22} {degree:6} | {medians[dense] * 1e3:7.1f} {dense[1]:13} "
        f"| {medians[ours] * 1e3:7.1f} {ours[1]:13}| {spread(ratios)}"
    )


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=("layers", "networks"))
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument(
        "--how", nargs="+", choices=LAYOUTS, default=("eager", "channels_last", "compiled", "norm"),
        help="norm, with our batch norm, is for ours only",
    )  # fmt: skip
    parser.add_argument("--degree", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8, help="of the networks")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    parts = options.part or ("layers", "networks")
    print(f"{machine(options.threads)}; {options.rounds} rounds\n{HEADER}")
    sides = {"dense": None, "ours": options.degree}
    if "layers" in parts:
        for inputs, outputs in LAYERS:
            runs = {(s, "eager"): layer_pass(inputs, outputs, d) for s, d in sides.items()}
            label = f"8x196x{inputs} -> {outputs}"
            print(compare(label, options.degree, runs, options.rounds), flush=True)
    for name in options.network if "networks" in parts else ():
        torch._dynamo.reset()
        runs = {
            (side, how): network_step(name, degree, how, options.batch_size)
            for side, degree in sides.items()
            for how in options.how
            if (side, how) != ("dense", "norm")
        }
        print(compare(name, options.degree, runs, options.rounds), flush=True)


if __name__ == "__main__":
    main()
