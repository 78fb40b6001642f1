"""Encoded images to pixels."""

import io
import re
import zipfile
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
# Pillow reads by content and knows formats that start other programs, such as EPS.
FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")

READ_ERRORS = (
    OSError,  # unreadable file; also PIL's errors for what is no image or is cut off
    KeyError,  # no such name in a zip archive
    EOFError,
    SyntaxError,  # PIL: broken PNG
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
    Image.DecompressionBombError,
)


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def decode(content: bytes, size: int) -> np.ndarray:
    """One encoded image as RGB: uint8, (3, size, size).

    An image of another size is cut to the centre square and resized with a bicubic antialiasing
    filter; its orientation tag is obeyed. Raises one of READ_ERRORS for what is no whole image of
    8 bits per channel.
    """
    try:
        opened = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:  # its message names an object of Python's
        raise ValueError("no image of a format that is read here") from None
    with opened as image:
        if _is_deep(image):
            raise ValueError("more than 8 bits per channel")
        ImageOps.exif_transpose(image, in_place=True)
        rgb = image.convert("RGB")
    if rgb.size != (size, size):
        rgb = ImageOps.fit(rgb, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(rgb).transpose(2, 0, 1)


def _is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether a file has more than 8 bits per channel, which Pillow drops in silence for colors.

    It does so where the decoder's raw mode is one such as `RGB;16B`, or where the largest value of
    a PPM is above 255. `BGR;16` has 16 bits per pixel, not per channel.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return True
    for tile in image.tile:
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if re.search(r";16[BLN]$", str(arguments[0])):
            return True
        if tile[0] in ("ppm", "ppm_plain") and int(arguments[1]) > 255:
            return True
    return False
