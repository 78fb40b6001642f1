"""Images per second of whole training loops on a GPU: ours against a plain one.

    python benchmarks/gpu.py

Images of CIFAR-10's shape with its augmentation, vgg16bn and resnet18, dense and wired by `rreg` at
degree 3. *Plain* is what a training script usually does: eager float32 with PyTorch's own defaults,
and a DataLoader whose worker processes crop, flip and normalise PIL images. *Ours* is
`expanders.training.trainer.Trainer` with the settings of each line, `reduce-overhead` being CUDA
graphs.
Every round trains each line's share of images once, in turn. Printed are medians over the rounds,
quartiles of the ratio to the plain loop in the same round, the minutes that 300 epochs of CIFAR-10
take at that speed, and how much longer the first epoch took.

This script has not run on a GPU yet; with `--device cpu --images 256` it runs without one.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch
from common import machine, spread
from data import MEAN, STD, PerImage
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from expanders import models
from expanders.data import Images, Transform
from expanders.training import schedules
from expanders.training.device import set_arithmetic
from expanders.training.settings import Settings
from expanders.training.trainer import Trainer
from expanders.wiring.wire import sparsify

TRAINED = 45_000  # images of CIFAR-10 that are not kept for validation
OURS: dict[str, dict[str, Any]] = {
    "tf32": {"precision": "tf32", "compile": "none"},
    "tf32, compiled": {"precision": "tf32", "compile": "default"},
    "tf32, graphs": {"precision": "tf32", "compile": "reduce-overhead"},
    "bf16, channels last": {"precision": "bf16", "compile": "none", "channels_last": True},
    "bf16, compiled": {"precision": "bf16", "compile": "default"},
    "bf16, compiled, channels last": {
        "precision": "bf16", "compile": "default", "channels_last": True,
    },
    "bf16, graphs, channels last": {
        "precision": "bf16", "compile": "reduce-overhead", "channels_last": True,
    },
}  # fmt: skip


def network(name: str, degree: int | None, device: torch.device) -> nn.Module:
    """A network; dense if `degree` is None."""
    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)()
    if degree is not None:
        sparsify(model, degree=degree)
    return model.to(device)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The paper's optimizer."""
    return torch.optim.SGD(
        model.parameters(), lr=0.001, momentum=0.9, nesterov=True, weight_decay=5e-4
    )


def plain_loop(
    model: nn.Module, images: Images, device: torch.device, options: argparse.Namespace
) -> Callable[[], None]:
    """One epoch of a plain training script, as a function."""
    loader = DataLoader(
        PerImage(images, from_pil=True),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        pin_memory=device.type == "cuda",
    )
    optimizer = sgd(model)
    model.train()

    def epoch() -> None:
        torch.set_float32_matmul_precision("highest")  # PyTorch's defaults: tf32 in convolutions
        torch.backends.cudnn.allow_tf32 = True
        for pixels, labels in loader:
            inputs, targets = (t.to(device, non_blocking=True) for t in (pixels, labels))
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()

    return epoch


def our_loop(
    model: nn.Module, images: Images, device: torch.device, batch_size: int, how: dict[str, Any]
) -> Callable[[], None]:
    """One epoch of the suite's trainer, as a function."""
    optimizer = sgd(model)
    settings = Settings(epochs=300, batch_size=batch_size, **how)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        schedule=schedules.constant(optimizer),
        train=images.to(device),
        val=images[:0],
        transform=Transform(MEAN, STD, pad=4, crop=32, flip=True),
        settings=settings,
        seed=0,
    )

    def epoch() -> None:
        set_arithmetic(settings.precision, device)
        trainer.run_epoch()

    return epoch


def timed(epoch: Callable[[], None], device: torch.device) -> float:
    """Seconds until the device has done all of an epoch."""
    start = time.perf_counter()
    epoch()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def lines(
    name: str, degree: int | None, device: torch.device, options: argparse.Namespace
) -> Iterator[str]:
    """The lines of one network's table."""
    torch._dynamo.reset()
    count = options.images - options.images % options.batch_size
    generator = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        torch.randint(10, (count,), generator=generator),
    )
    loops = {"plain": plain_loop(network(name, degree, device), images, device, options)}
    for how, settings in OURS.items():
        model = network(name, degree, device)
        loops[how] = our_loop(model, images, device, options.batch_size, settings)
    first = {how: timed(loop, device) for how, loop in loops.items()}
    seconds: dict[str, list[float]] = {how: [] for how in loops}
    for _ in range(options.rounds):
        for how, loop in loops.items():
            seconds[how].append(timed(loop, device))
    for how, taken in seconds.items():
        ratios = [plain / ours for plain, ours in zip(seconds["plain"], taken, strict=True)]
        speed = count / statistics.median(taken)
        yield (
            f"{name:9} {degree or 'dense':>6}  {how:30} {speed:9.0f}  {spread(ratios)}  "
            f"{300 * TRAINED / speed / 60:8.1f}  {first[how] - statistics.median(taken):8.1f}"
        )


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    networks = ("vgg16bn", "resnet18")
    parser.add_argument("--network", nargs="+", choices=networks, default=networks)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=25_600, help="per round and line")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1))
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --images 256 tries the script")
    what = f"{torch.cuda.get_device_name(device)}; " if device.type == "cuda" else ""
    print(
        f"{what}{machine(torch.get_num_threads())}; {options.workers} workers for the plain loop, "
        f"{options.images} images a round, {options.rounds} rounds, batch {options.batch_size}\n\n"
        "network   degree  loop                            images/s  ratio (quartiles)     "
        "300 epochs, min  first epoch's extra s"
    )
    for name, degree in product(options.network, (None, 3)):
        for line in lines(name, degree, device, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
