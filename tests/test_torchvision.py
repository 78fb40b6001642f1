"""One network of each of torchvision's families goes all the way, from its name to a file."""

import csv
import json

import pytest
import torch
from torch import nn
from torchvision import models as zoo

import expanders
from expanders import models, sparsify
from expanders.export import network, writing
from expanders.report.__main__ import write
from expanders.runs.checkpoint import Blueprint
from tests.runs.test_tracking import of_type, records

FAMILIES = {  # the narrowest of each, with the side of an image, as small as it takes them
    "alexnet": ("alexnet", 64),
    "convnext": ("convnext_tiny", 32),
    "densenet": ("densenet121", 32),
    "efficientnet": ("efficientnet_b0", 32),
    "maxvit": ("maxvit_t", 224),
    "mnasnet": ("mnasnet0_5", 32),
    "mobilenetv2": ("mobilenet_v2", 32),
    "mobilenetv3": ("mobilenet_v3_small", 32),
    "regnet": ("regnet_y_400mf", 32),
    "resnet": ("resnet18", 32),
    "shufflenetv2": ("shufflenet_v2_x0_5", 32),
    "squeezenet": ("squeezenet1_1", 32),
    "swin_transformer": ("swin_t", 32),
    "vgg": ("vgg11", 32),
    "vision_transformer": ("vit_b_16", 32),
}
TRACED = {"squeezenet": "onnx", "mobilenetv2": "torch"}  # the others as quicker: dense-torch
REFUSED = {"googlenet", "inception"}  # return more than logits in training


def test_every_family_is_here():
    names = zoo.list_models(module=zoo)
    assert {zoo.get_model_builder(name).__module__.rpartition(".")[2] for name in names} == {
        *FAMILIES,
        *REFUSED,
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_from_its_name_to_a_file_with_the_same_outputs(family, tmp_path):
    name, side = FAMILIES[family]
    arguments = {"name": name, "num_classes": 4}
    if family == "vision_transformer":
        arguments["image_size"] = side
    torch.manual_seed(0)
    model = models.torchvision(**arguments)
    report = sparsify(model, degree=2)
    assert report.live < report.dense
    images, labels = torch.randn(4, 3, side, side), torch.arange(4)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert any(
        not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)
    )
    path = tmp_path / "best.pt"
    expanders.save(path, model, Blueprint("expanders.models.torchvision", arguments))
    with torch.no_grad():
        expected = model.eval()(images)
        assert torch.equal(expanders.load(path)(images), expected)
    trained = network.read(path, side)
    written = writing.write(trained, TRACED.get(family, "dense-torch"), tmp_path / "network")
    assert 0 <= written.difference <= 1e-4 * written.largest


def test_a_network_goes_by_its_own_name_everywhere(launch, tmp_path, few_images):
    recipe = tmp_path / "conf" / "recipe" / "squeezenet1_1_image_folder.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text("# @package _global_\nbatch_size: 3\nrecipe: {lr: 0.0005}\n")
    own = ("-cd", str(tmp_path / "conf"), "dataset=image_folder", f"dataset.root={few_images}")
    common = (*own, "wandb.mode=offline", "epochs=1", "model=torchvision")
    names = ("squeezenet1_1", "mnasnet0_5")
    result = launch("-m", *common, f"model.name={','.join(names)}")
    assert result.returncode == 0, result.stderr
    folders = sorted((tmp_path / "runs").glob("*-images-*"))
    assert len(folders) == 2
    for folder in folders:
        name = folder.name.partition("-")[0]
        config = json.loads((folder / "config.json").read_text())
        expected = (3, 0.0005) if name == names[0] else (128, 0.05)
        assert (config["batch_size"], config["optimizer"]["lr"]) == expected
        logged = of_type(records(folder), "run")[0]
        choices = logged["config"]["update"]["choices"]
        assert (choices["model"], choices["dataset"]) == (name, "images")
        assert logged["display_name"] == folder.name
        assert {name, "images"} <= set(logged["tags"])
        trained = network.read(folder)
        assert (trained.name, trained.metadata()["model"]) == (name, name)
    again = launch(*common, f"model.name={names[0]}", "dry_run=true")
    assert again.stdout.startswith("done"), again.stderr
    write(tmp_path / "runs", tmp_path / "report")
    runs, cells = (
        list(csv.DictReader((tmp_path / "report" / f"{name}.csv").read_text().splitlines()))
        for name in ("runs", "cells")
    )
    assert {row["model"] for row in runs} == set(names)
    assert {row["table"] for row in cells} == {f"{name} on images" for name in names}
    assert "torchvision" not in (tmp_path / "report" / "report.md").read_text()
