"""Files in 8 bits: how they are chosen, and how large they are."""

import onnx
import pytest
import torch

from expanders.export import formats, quantized, writing
from expanders.export.network import read
from expanders.export.pixels import Labelled
from tests.export.conftest import OWN
from tests.export.test_export import VGG16BN, trained


@pytest.fixture(scope="module")
def float_file():
    """VGG16-bn at degree 3, and images."""
    this = trained(VGG16BN)
    return writing.encode(this, "onnx"), this.images(2)


def test_small_and_close(float_file, tmp_path):
    content, images = float_file
    made = quantized.quantize(content, images, Labelled(images[:0], torch.zeros(0).long()))
    assert (made.way, made.lost) == ("static", None)  # which is ten times as fast as dynamic
    assert len(made.content) <= 0.55 * len(content)
    path = tmp_path / "int8.onnx"
    path.write_bytes(made.content)
    this = trained(VGG16BN)
    with torch.no_grad():
        wanted = this.complete(this.network)(images)
    assert (formats.run_onnx(path, images) - wanted).abs().max() < 0.2 * wanted.abs().max()
    kept = {prop.key: prop.value for prop in onnx.load(path).metadata_props}
    assert kept["model"] == "vgg16bn"


@pytest.mark.parametrize(
    ("accuracies", "way", "lost"),
    [
        ({"static": 0.895, "dynamic": 0.9}, "static", 0.005),
        ({"static": 0.85, "dynamic": 0.895}, "dynamic", 0.005),
        ({"static": 0.85, "dynamic": 0.8}, "static", 0.05),
    ],
)
def test_the_faster_way_is_chosen_if_it_loses_little(own_run, accuracies, way, lost, monkeypatch):
    """Accuracies are given; times are: dynamic takes ten times as long."""
    this = read(own_run, model=OWN.target)
    monkeypatch.setattr(quantized, "load_onnx", lambda path: path.stem)
    monkeypatch.setattr(
        quantized, "seconds_of", lambda files, image: {"static": [1.0], "dynamic": [10.0]}
    )
    monkeypatch.setattr(
        quantized, "accuracy_of", lambda name, images: {"float32": 0.9, **accuracies}[name]
    )
    train, val = (this.dataset.sample(part, 4) for part in ("train", "val"))
    made = quantized.quantize(writing.encode(this, "onnx"), train.pixels, val)
    assert (made.way, pytest.approx(made.lost)) == (way, lost)


def test_ranges_come_from_training_images_and_the_choice_from_validation_images(
    own_run, monkeypatch
):
    this = read(own_run, model=OWN.target)
    asked = []
    sample = this.dataset.sample

    def watched(part, count):
        asked.append(part)
        return sample(part, count)

    monkeypatch.setattr(this.dataset, "sample", watched)
    writing.write(this, "onnx", own_run / "int8.onnx", "int8")
    assert asked == ["train", "val"]
