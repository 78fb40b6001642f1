"""Cost of sparse networks against dense ones: training step, inference and memory.

    python benchmarks/training.py
    python benchmarks/training.py --part step --network vgg16bn --degree 3 15

Random images of CIFAR-10's shape (resnet50: 64x64), graphs of `rreg`. Every round runs each
variant once, in turn, so that neighbours on the machine disturb all alike. A ratio is the time of
the best dense variant that PyTorch has (the one with the least median) by the time of ours in the
same round: above 1, ours is faster. The dense network with our batch norm stands apart. Printed are
medians, with the first and last quartile of the ratios. Degree 0 stands for complete graphs.

Inference of ours also runs as the network's C file (c_file), which takes pixels.

A step is forward, backward and SGD with Nesterov momentum. Nothing else runs: no data is fed.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from common import machine, spread
from torch import nn
from torch.nn import functional as F

from expanders import CNetwork, export_network, models
from expanders.data import Transform
from expanders.training.compilation import Compilation, compiled
from expanders.training.device import keep_freed_memory
from expanders.wiring.fold import fold
from expanders.wiring.layers import SparseConv2d, SparseLayer, SparseLinear
from expanders.wiring.wire import sparsify

SIDE = {"vgg16bn": 32, "resnet18": 32, "resnet50": 64}  # pixels
# How a model runs: channels last (l), compiled by Inductor (c), with our batch norm (n).
LAYOUTS = {"eager": "", "channels_last": "l", "compiled": "c", "both": "lc", "norm": "n"}
C_FILE = "c_file"  # sparse networks in inference: exported as C, called from Python
Run = Callable[[], object]
_SHORT = 0.1  # seconds


def network(name: str, degree: int | None, execution: str = "auto") -> nn.Module:
    """A network; dense if `degree` is None, with sparse layers on complete graphs if it is 0."""
    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)()
    if degree == 0:
        complete(model)
    elif degree is not None:
        sparsify(model, degree=degree)
    for layer in model.modules():
        if isinstance(layer, SparseLayer):
            layer.execution = execution  # type: ignore[assignment]
    return model


def complete(model: nn.Module) -> None:
    """Swap all layers for sparse ones that have every edge."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                right, left = layer.weight.shape[:2]
                edges = torch.stack(
                    [torch.arange(left).repeat(right), torch.arange(right).repeat_interleave(left)]
                )
                swap = SparseConv2d if isinstance(layer, nn.Conv2d) else SparseLinear
                setattr(parent, name, swap.from_dense(layer, edges))  # type: ignore[arg-type]


def prepared(model: nn.Module, x: torch.Tensor, how: str) -> tuple[nn.Module, torch.Tensor]:
    """Model and images in the memory layout `how` asks for, compiled if it asks for that."""
    if "l" in LAYOUTS[how]:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    if "c" in LAYOUTS[how]:
        model = torch.compile(model)  # type: ignore[assignment]
    if "n" in LAYOUTS[how] and model.training:
        model = compiled(model, Compilation("none", "native"))  # type: ignore[assignment]
    return model, x


def training_step(name: str, degree: int | None, how: str, batch_size: int) -> Run:
    """One whole training step, as a function."""
    labels = torch.randint(10, (batch_size,))
    images = torch.randn(batch_size, 3, SIDE[name], SIDE[name])
    model, x = prepared(network(name, degree).train(), images, how)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4
    )

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return step


def inference(name: str, degree: int | None, how: str, batch_size: int) -> Run:
    """Logits of one batch, as a function; norms are folded, in dense networks too."""
    if how == C_FILE:
        return inference_in_c(name, degree, batch_size)
    images = torch.randn(batch_size, 3, SIDE[name], SIDE[name])
    model, x = prepared(fold(network(name, degree)), images, how)

    def logits() -> torch.Tensor:
        with torch.inference_mode():
            return model(x)  # type: ignore[no-any-return]

    return logits


def inference_in_c(name: str, degree: int | None, batch_size: int) -> Run:
    """Logits of one batch of pixels by the network's C file, as a function."""
    side = SIDE[name]
    pixels = torch.randint(256, (batch_size, 3, side, side), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.c"
        export_network(network(name, degree), path, size=side, format="c", transform=Transform())
        predict = CNetwork(path)
    return lambda: predict(pixels)


def timed(run: Run) -> float:
    """Seconds of a run; of a short one, the mean of several in a row."""
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    if seconds > _SHORT:
        return seconds
    count = 1 + int(_SHORT / seconds)
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def compare(
    make: Callable[..., Run],
    name: str,
    degrees: list[int],
    batch_size: int,
    rounds: int,
    layouts: list[str],
) -> None:
    """Print a line of a table for each degree: the best dense variant, ours, and their ratios."""
    torch._dynamo.reset()
    keys: list[tuple[int | None, str]] = [(None, how) for how in LAYOUTS]
    keys += product(degrees, layouts)
    runs = {(degree, how): make(name, degree, how, batch_size) for degree, how in keys}
    times: dict[tuple[int | None, str], list[float]] = {key: [] for key in runs}
    for run in runs.values():  # compilation and first allocations
        run()
        run()
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(timed(run))
    medians = {key: statistics.median(seconds) for key, seconds in times.items()}
    dense = min((key for key in keys[: len(LAYOUTS)] if key[1] != "norm"), key=medians.__getitem__)
    for degree in degrees:
        ours = min(((degree, how) for how in layouts), key=medians.__getitem__)
        ratios = [d / o for d, o in zip(times[dense], times[ours], strict=True)]
        eager = medians[dense] / medians.get((degree, "eager"), float("nan"))
        print(
            f"{name:9} {degree or 'dense':>6} {batch_size:5} | "
            f"{medians[dense] * 1e3:8.2f} {dense[1]:13} | "
            f"{medians[ours] * 1e3:8.2f} {ours[1]:13} | {spread(ratios)} | {eager:6.2f}     | "
            f"{medians[dense] / medians[None, 'norm']:6.2f}",
            flush=True,
        )


HEADER = (
    "network   degree batch | best dense, ms        | ours, ms              | ratio (quartiles)"
    "      | ours eager | dense, our norm"
)


def print_speed(options: argparse.Namespace) -> None:
    """Tables of training steps and inference."""
    for part, title, make, batch_sizes, rounds in (
        ("step", "Training step", training_step, [options.batch_size], options.rounds),
        ("inference", "Inference", inference, [1, 64], 3 * options.rounds),
    ):
        if part not in options.part:
            continue
        print(f"\n{title}\n{HEADER}")
        for name in options.network:
            degrees = options.degree if name == "vgg16bn" else options.degree[:1]
            for batch_size in batch_sizes:
                ours = [how for how in options.ours if how != C_FILE or part == "inference"]
                if ours:
                    compare(make, name, degrees, batch_size, rounds, ours)


def bytes_of(tensors: list[torch.Tensor]) -> int:
    """Memory of the tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def peak_memory() -> int:
    """The largest resident set of this program so far, in kB.

    On Linux, `getrusage` also counts the program that this process was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(lines[0].split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # macOS has bytes


def measure_memory(name: str, degree: int | None, execution: str, how: str, size: int) -> None:
    """Print bytes: of parameters, gradients and momentum; of edges; of live numbers; peak memory.

    The peak is that of the program in three steps, above what its imports took.
    """
    import torch._dynamo  # compiling imports it

    imports = peak_memory()
    x = torch.randn(size, 3, SIDE[name], SIDE[name])
    model = network(name, degree, execution).train()
    run, x = prepared(model, x, how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, nesterov=True)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(run(x), torch.randint(10, (size,))).backward()
        optimizer.step()
    peak = peak_memory()
    parameters = list(model.parameters())
    gradients = [p.grad for p in parameters if p.grad is not None]
    momenta = [s["momentum_buffer"] for s in optimizer.state.values()]
    edges = [layer.edges for layer in model.modules() if isinstance(layer, SparseLayer)]
    counted = bytes_of([*parameters, *gradients, *momenta])
    print(counted, bytes_of(edges), sum(p.numel() for p in parameters) * 12, peak - imports)


def print_memory(options: argparse.Namespace) -> None:
    """A table of memory, each line measured in a process of its own."""
    print(
        "\nMemory, MB: parameters + gradients + momentum (and by their live share), edges, peak "
        f"resident set of 3 steps of {options.batch_size} above that of the imports (and by the "
        "dense network's)"
    )
    for name in options.network:
        first = 0
        for degree, execution, how in (
            (None, "dense", "eager"),
            (None, "dense", "norm"),
            (options.degree[0], "dense", "eager"),
            (options.degree[0], "auto", "eager"),
            (options.degree[0], "auto", "norm"),
        ):
            arguments = [name, str(degree or ""), execution, how, str(options.batch_size)]
            memory = ["--return-memory"] if options.return_memory else []
            line = subprocess.run(
                [sys.executable, __file__, *memory, "--measure-memory", *arguments],
                check=True, capture_output=True, text=True,
            ).stdout  # fmt: skip
            counted, edges, live, peak = map(int, line.split())
            first = first or peak
            what = f"degree {degree}, {execution}" if degree else "dense network"
            print(
                f"{name:9} {what:16} {how:6} {counted / 1e6:8.2f} ({counted / live:.2f}) "
                f"{edges / 1e6:6.2f} {peak / 1e3:8.0f} ({peak / first:.2f})",
                flush=True,
            )


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("step", "inference", "memory")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts)
    parser.add_argument("--network", nargs="+", choices=SIDE, default=list(SIDE))
    parser.add_argument(
        "--degree", nargs="+", type=int, default=[3, 15, 30, 60, 0], help="ResNets take the first"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--ours",
        nargs="+",
        choices=[*LAYOUTS, C_FILE],
        default=[*LAYOUTS, C_FILE],
        help="how ours may run",
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--return-memory",
        action="store_true",
        help="give freed memory back to the system, as programs other than the launcher do",
    )
    parser.add_argument("--measure-memory", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.return_memory:
        keep_freed_memory()
    if options.measure_memory:
        name, degree, execution, how, batch_size = options.measure_memory
        return measure_memory(
            name, int(degree) if degree else None, execution, how, int(batch_size)
        )
    print(
        f"{machine(options.threads)}; {options.rounds} rounds"
        f"{', freed memory is returned' if options.return_memory else ''}"
    )
    print_speed(options)
    if "memory" in options.part:
        print_memory(options)


if __name__ == "__main__":
    main()
