"""Small image files, and what every refused data set has in common."""

import io

import pytest
from PIL import Image

from expanders.errors import SettingError

NOWHERE = "http://127.0.0.1:9/file"  # a download from here is refused at once


def refusal(load):
    """The message of the SettingError that `load` raises, which is one line about the root."""
    with pytest.raises(SettingError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith("dataset.root=")
    assert "\n" not in message
    return message


def jpeg(color, side, mode="RGB"):
    file = io.BytesIO()
    Image.new("RGB", (side, side), color).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def write(root, contents):
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def loaded(source):
    """The training and the test images of a source, in memory."""
    return tuple(part.to("cpu") for part in source.load())
