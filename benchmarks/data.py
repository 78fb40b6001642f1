"""Images per second of augmented training batches: one tensor in memory against a DataLoader.

    python benchmarks/data.py

Random pixels of CIFAR-10's shape; random crop after padding by 4, flip, normalisation. The other
side is torchvision's transforms in a DataLoader with two workers that live on between epochs, once
on PIL images and once on uint8 tensors; nothing of it reads or decodes files. Every round runs one
epoch of each in turn, after one epoch that does not count. Nothing consumes the batches. The tensor
in memory gets one thread, fewer cores than the other side: on a busy machine, where threads wait
for each other, two were slower than one.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable

import torch
import torchvision
from common import machine, spread
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from expanders.data import Images, Transform, batches

MEAN, STD, PAD, SIDE = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7), 4, 32


class PerImage(Dataset):
    """One image at a time through torchvision's transforms, from a PIL image or from a tensor."""

    def __init__(self, images: Images, from_pil: bool) -> None:
        self.from_pil = from_pil
        self.pixels = images.pixels.permute(0, 2, 3, 1).numpy() if from_pil else images.pixels
        self.labels = images.labels.tolist()
        mean, std = ([value / 255 for value in values] for values in (MEAN, STD))
        to_float = T.ToTensor() if from_pil else T.ConvertImageDtype(torch.float32)
        crop, flip = T.RandomCrop(SIDE, padding=PAD), T.RandomHorizontalFlip()
        self.transform = T.Compose([crop, flip, to_float, T.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image = Image.fromarray(self.pixels[i]) if self.from_pil else self.pixels[i]
        return self.transform(image), self.labels[i]


def in_memory(images: Images, batch_size: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch as this project feeds it."""
    transform = Transform(MEAN, STD, pad=PAD, crop=SIDE, flip=True)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)
    for pixels, labels in batches(images, batch_size, order):
        parameters = transform.draw(len(pixels), *pixels.shape[-2:], generator)
        yield transform.train(pixels, parameters), labels


def images_per_second(epoch: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The rate at which `epoch` yields images, from its start to its end."""
    start = time.perf_counter()
    num_images = sum(len(inputs) for inputs, _ in epoch)
    return num_images / (time.perf_counter() - start)


def main() -> None:
    """Measure, and print medians with their range, and ratios with their quartiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1, help="of the in-memory side")
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    shape = (options.images, 3, SIDE, SIDE)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.randint(10, shape[:1], generator=generator))

    def loader(from_pil: bool) -> DataLoader:
        return DataLoader(
            PerImage(images, from_pil),
            options.batch_size,
            shuffle=True,
            num_workers=options.workers,
            persistent_workers=options.workers > 0,
        )

    pil, tensors = loader(from_pil=True), loader(from_pil=False)
    sides: dict[str, Callable[[], Iterable]] = {
        "in memory": lambda: in_memory(images, options.batch_size),
        "DataLoader, PIL": lambda: pil,
        "DataLoader, tensors": lambda: tensors,
    }
    for epoch in sides.values():
        images_per_second(epoch())
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, epoch in sides.items():
            rates[name].append(images_per_second(epoch()))

    print(
        f"{machine(options.threads)}, torchvision {torchvision.__version__}; {options.workers} "
        f"workers; {options.images} random images 3x{SIDE}x{SIDE}, batch {options.batch_size}, "
        f"{options.rounds} rounds"
    )
    for name, values in rates.items():
        median, low, high = statistics.median(values), min(values), max(values)
        print(f"{name:20} {median:10,.0f} images/s  ({low:,.0f} to {high:,.0f})")
    for name in list(rates)[1:]:
        pairs = zip(rates["in memory"], rates[name], strict=True)
        ratios = [ours / theirs for ours, theirs in pairs]
        print(f"in memory / {name}: {spread(ratios)}")


if __name__ == "__main__":
    main()
