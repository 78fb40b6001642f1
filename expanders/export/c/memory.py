"""Where the tensors of a network lie in one buffer, which is used again and again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(eq=False)
class Plane:
    """A tensor, as `Shape` in layers.c: channels, height, width, and zeros around each image.

    `offset` is its place in the buffer, in values; None for what lies elsewhere, in `name`.
    """

    shape: tuple[int, int, int]
    margin: int = 0
    offset: int | None = None
    name: str = ""
    last_use: int = 0

    @property
    def pitch(self) -> int:
        """Distance of rows, in values."""
        return self.shape[2] + self.margin

    @property
    def size(self) -> int:
        """Values of all channels, margins included."""
        channels, height, _ = self.shape
        return channels * ((height + 2 * self.margin) * self.pitch + self.margin)

    def __str__(self) -> str:
        """Pointer and shape, as arguments of a call in C."""
        pointer = self.name or f"values + {self.offset}"
        return f"{pointer}, (Shape){{{', '.join(map(str, (*self.shape, self.margin)))}}}"


@dataclass
class Step:
    """One call of a loop of layers.c.

    Attributes:
        inputs, output: what it reads and writes.
        call: writes the call, once all tensors have their places.
        activation: the name of the function that it applies to what it stores; None if it takes
            no such function.
        in_place: whether the output may lie where the first input does.
        scratch: how many sums it needs at a time, besides the values of one channel.
        overhang: how many values behind an input it may read.
    """

    inputs: list[Plane]
    output: Plane
    call: Callable[["Step"], str]
    activation: str | None = None
    in_place: bool = False
    scratch: Callable[[], int] = lambda: 0
    overhang: Callable[[], int] = lambda: 0

    @property
    def sums(self) -> int:
        """How many sums it needs at a time."""
        return max(self.scratch(), math.prod(self.output.shape[1:]))


def place(steps: Sequence[Step]) -> int:
    """Give every tensor of the buffer an offset, the first that is free; returns the buffer's size.

    The place of a tensor is free again after the last step that reads it.
    """
    for index, step in enumerate(steps):
        for plane in (*step.inputs, step.output):
            plane.last_use = index
    live: list[Plane] = []
    size = 0
    for index, step in enumerate(steps):
        output = step.output
        if output.name:
            continue
        if step.in_place and _can_replace(step.inputs[0], output, index):
            output.offset = step.inputs[0].offset
            live.remove(step.inputs[0])
        else:
            output.offset = _first_gap(live, output.size)
        live = [plane for plane in (*live, output) if plane.last_use > index]
        size = max(size, output.offset + output.size)  # type: ignore[operator]
    return size


def _can_replace(old: Plane, new: Plane, index: int) -> bool:
    same = (old.shape, old.margin) == (new.shape, new.margin)
    return same and old.last_use == index and not old.name


def _first_gap(live: Sequence[Plane], size: int) -> int:
    end = 0
    for plane in sorted(live, key=lambda plane: plane.offset or 0):
        assert plane.offset is not None
        if plane.offset - end >= size:
            break
        end = max(end, plane.offset + plane.size)
    return end
