import shutil

import pytest
import torch
from torch.nn import functional as F

from expanders import data, graphs
from expanders.files import write_sealed
from expanders.runs import checkpoint, folders
from expanders.runs.checkpoint import Blueprint
from expanders.seeds import stream
from expanders.wiring.wire import sparsify
from tests.export import own

OWN = Blueprint("tests.export.own.net", {"num_classes": 10, "width": 16})
DIGITS = {"_target_": "expanders.data.digits", "num_images": 300}
TRANSFORM = {"mean": [77.8, 77.8, 77.8], "std": [82.6, 82.6, 82.6], "pad": 2, "crop": 32}


@pytest.fixture(scope="session")
def parts():
    """Training, validation and test images of a run."""
    images, test = data.digits(num_images=300).load()
    return *data.split(images, 0.1, stream(0, "split")), test


@pytest.fixture(scope="session")
def own_network(parts):
    """A network of another package, trained a little."""
    torch.manual_seed(0)
    model = own.net(**OWN.arguments)
    sparsify(model, graphs.rreg, 6, skip=["features.0", "classifier"])
    inputs, labels = data.Transform(**TRANSFORM).eval(parts[0].pixels), parts[0].labels
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def _own_run(own_network, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), own_network, OWN)


@pytest.fixture
def own_run(_own_run, tmp_path):
    """The folder of that network's finished run, which a test may change."""
    return shutil.copytree(_own_run, tmp_path / "run")


def make_run(folder, network, blueprint, source=DIGITS):
    checkpoint.save(folder / "best.pt", network, blueprint)
    transform = {"_target_": "expanders.data.Transform", **TRANSFORM}
    dataset = {"val_fraction": 0.1, "transform": transform, "source": source}
    config = {"dataset": dataset, "seed": 0, "seeds": {"data": None}, "definition": {}}
    write_sealed(folder / "config.json", config)
    folders.write_summary(folder, {}, folders.run_digest(config))
    return folder
