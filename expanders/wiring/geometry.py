"""Sizes and margins of convolutions and pools, as PyTorch takes them."""

from collections.abc import Sequence
from typing import Literal

from expanders.errors import SettingError, check_choice

Size = int | Sequence[int]
"""Pixels in both directions, as PyTorch takes them: one number, a list of one or of two."""
Padding = Literal["same", "valid"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


def margins_of(
    padding: Size | str, kernel_size: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """Rows and columns to add around an image: (left, right, top, bottom).

    Raises SettingError for a padding of another name than PyTorch has, or of more than two numbers.
    """
    if not isinstance(padding, str):
        height, width = (int(p) for p in pair(padding, "padding"))
        return (width, width, height, height)
    check_choice("padding", padding, Padding)
    if padding == "valid":
        return (0, 0, 0, 0)
    height, width = (d * (k - 1) for d, k in zip(dilation, kernel_size, strict=True))
    return (width // 2, width - width // 2, height // 2, height - height // 2)


def pair(value: Size, setting: str = "size") -> tuple[int, int]:
    """A size in both directions; raises SettingError for none, and for more than two numbers."""
    sizes = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(sizes) not in (1, 2):
        raise SettingError(setting, value, "give one number, or two for height and width")
    return sizes[0], sizes[-1]


def side(value: Size) -> int | None:
    """A size that is the same in both directions, or None if it is not."""
    height, width = pair(value)
    return height if height == width else None
