"""From encoded images to pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from expanders.data.decoding import READ_ERRORS, decode


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(channels):
    """A PNG of 8 x 8 pixels with 16 bits per channel, which Pillow cannot write."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 8, 8, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(8 * channels * 2)) * 8)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_decoding_keeps_pixels_of_the_right_size():
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    out = decode(encoded(Image.fromarray(pixels), "PNG"), 16)
    assert np.array_equal(out, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_8_bit_mode_becomes_rgb(mode):
    out = decode(encoded(Image.new("RGB", (8, 8), "white").convert(mode), "PNG"), 8)
    assert out.shape == (3, 8, 8)
    assert (out == 255).all()


def test_resizing_takes_the_centre_square_and_averages():
    pixels = np.zeros((32, 96, 3), dtype=np.uint8)
    pixels[:, 32:64] = 200  # the centre square ...
    pixels[::2, 32:64] = 100  # ... with fine stripes
    out = decode(encoded(Image.fromarray(pixels), "PNG"), 8)
    assert abs(out[:, 1:-1, 1:-1].astype(int) - 150).max() <= 3
    assert out.min() > 130  # no black from beside the square


def test_the_orientation_tag_is_obeyed():
    image = Image.new("RGB", (8, 8))
    image.paste((255, 0, 0), (0, 0, 8, 4))  # red above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    out = decode(encoded(image, "PNG", exif=exif), 8)
    assert (out[0, :4].max(), out[0, 4:].min()) == (0, 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image of a format"),
        (b"not an image", "no image of a format"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:-900], "truncated|broken"),
        (encoded(Image.new("I;16", (8, 8)), "PNG"), "more than 8 bits"),
        (deep_png(channels=3), "more than 8 bits"),  # these three are read as 8 bits by Pillow
        (deep_png(channels=4), "more than 8 bits"),
        (b"P6 8 8 1023\n" + bytes(8 * 8 * 6), "more than 8 bits"),
        # not handed to Ghostscript
        (encoded(Image.new("RGB", (8, 8)), "EPS"), "no image of a format"),
    ],
)
def test_what_is_no_whole_image_of_8_bits_is_refused(content, reason):
    with pytest.raises(READ_ERRORS, match=reason):
        decode(content, 8)
