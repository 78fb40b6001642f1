"""A package of a user's own goes everywhere where ours does, with YAML files as short as can be.

It has a model, a data set, a graph model and an optimizer; nothing of this package changes.
"""

import csv
import re
import sys
from importlib import import_module

import pytest
import torch

import expanders
from expanders.errors import SettingError
from expanders.export.__main__ import main as export
from expanders.files import read_sealed
from expanders.graphs.__main__ import main as look_at_graphs
from expanders.report.__main__ import main as report
from expanders.wiring.layers import SparseLayer
from tests.conftest import ROOT

PACKAGE = '''
import numpy as np
import torch
from torch import nn

from expanders.data import Images, Source


def ring(num_left, num_right, num_edges, rng, hops=1):
    """Every output sees the inputs after it."""
    right = np.arange(num_edges) % num_right
    left = (right + hops * (np.arange(num_edges) // num_right)) % num_left
    return np.stack([left, right])[:, np.lexsort((left, right))]


def mynet(num_classes, channels=8):
    layers = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for _ in range(2):
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), conv]
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, *pooled, nn.Linear(channels, num_classes))


def mydata(count=40):
    def part(count):
        labels = torch.arange(count) % 2
        noise = torch.randint(100, (count, 3, 8, 8), generator=torch.Generator().manual_seed(count))
        return Images((noise + 100 * labels[:, None, None, None]).to(torch.uint8), labels)

    return Source(2, lambda: (part(count), part(count // 2)))


class Descent(torch.optim.SGD):
    def __init__(self, params, lr=0.01):
        super().__init__(params, lr=lr, momentum=0.5)
'''
FILES = {
    "graph/ring": "_target_: mypkg.ring\n_partial_: true\n",
    "model/mynet": "_target_: mypkg.mynet\n",
    "dataset/mydata": "source: {_target_: mypkg.mydata}\n",
    "optimizer/descent": "_target_: mypkg.Descent\n_partial_: true\n",
    "recipe/mynet_mydata": "# @package _global_\nbatch_size: 7\nepochs: 1\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The arguments that choose everything of the package, which Python can import."""
    package = tmp_path / "lib" / "mypkg" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text(PACKAGE)
    for name, text in FILES.items():
        path = tmp_path / "conf" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{package.parent.parent}")
    monkeypatch.syspath_prepend(package.parent.parent)
    monkeypatch.delitem(sys.modules, "mypkg", raising=False)
    yield "-cd", str(tmp_path / "conf"), "model=mynet", "dataset=mydata", "optimizer=descent"
    sys.modules.pop("mypkg", None)


def test_it_goes_everywhere(launch_forked, own, tmp_path, capsys):
    look_at_graphs(["mypkg.ring:hops=2", "--seeds", "1"])
    assert re.search(r"^mypkg\.ring:hops=2 +\d\.\d+", capsys.readouterr().out, re.M)

    quiet = ("wandb.mode=disabled", "degree=2")
    result = launch_forked(*own, *quiet, "graph=ring")
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"mynet-mydata-ring-d2-s0-[0-9a-f]{8}", folder.name)
    config = read_sealed(folder / "config.json")
    assert (config["batch_size"], config["epochs"]) == (7, 1)
    assert config["dataset"]["val_fraction"] == 0.1
    assert config["dataset"]["transform"] == {"_target_": "expanders.data.Transform"}
    assert (config["model"]["skip"], config["graph"]["measures"]) == (None, "default")
    definition = config["definition"]
    assert definition["graph"] == {"_target_": "mypkg.ring"}
    assert definition["model"] == {"_target_": "mypkg.mynet"}
    assert definition["dataset"] == {"source": {"_target_": "mypkg.mydata"}}
    assert definition["optimizer"] == {"_target_": "mypkg.Descent"}

    # A sweep does not train again what is done.
    result = launch_forked("-m", *own, *quiet, "graph=ring,rreg,dense", "seed=0,1")
    assert result.returncode == 0, result.stderr
    assert "6 runs: 5 to do, 1 done" in result.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 6
    assert (
        launch_forked(*own, *quiet, "graph=ring", "+graph.hops=2", "dry_run=true").returncode == 0
    )

    with pytest.raises(SettingError, match=r"was built by mypkg\.mynet: pass model= to load it"):
        expanders.load(folder / "best.pt")
    mynet = import_module("mypkg").mynet
    model = expanders.load(folder / "best.pt", mynet(num_classes=2))
    assert [type(layer) for layer in model if isinstance(layer, SparseLayer)]
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 2)

    named = ["--model", "mypkg.mynet", "--source", "mypkg.mydata", "--size", "8"]
    export([str(folder), *named])
    assert "20 test images" in capsys.readouterr().out
    assert (folder / "network.onnx").exists()

    report([str(tmp_path / "runs")])
    path = tmp_path / "runs" / "report" / "cells.csv"
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert {row["table"] for row in rows} == {"mynet on mydata"}
    assert {(row["wiring"], row["finished"]) for row in rows} >= {("ring", "2"), ("rreg", "2")}


def test_a_misspelt_option_of_it_is_one_line(launch_forked, own):
    result = launch_forked(*own, "graph=ring", "+graph.hop=2")
    assert result.returncode == 1
    assert result.stderr == "error: graph.hop=2: no such setting here; there are: hops\n"


def test_a_package_that_python_cannot_import_is_one_line(launch_forked, own, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    result = launch_forked(*own)
    assert result.returncode == 1
    assert result.stderr.startswith("error: model._target_=mypkg.mynet: must be the dotted name")
    assert result.stderr.count("\n") == 1
