"""What a run is built from: a data set of a user's own, and runs that it started from."""

import re
import shutil

import pytest

from expanders import models
from expanders.runs import checkpoint
from expanders.runs.checkpoint import Origin
from expanders.wiring.draw import draw
from expanders.wiring.wire import wire
from tests.conftest import ROOT
from tests.outcomes import metrics

OWN_DATA = """
import torch
from expanders.data import Images, Source, Transform

def marked():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(200, (24, 3, 32, 32), generator=generator).to(torch.uint8)
    labels = torch.arange(24) % 2
    test = Images(torch.full_like(pixels, 255), labels)
    return Source(2, lambda: (Images(pixels, labels), test))

class Noting(Transform):
    def eval(self, pixels):
        if int(pixels.max()) == 255:
            print("a test image is read")
        return super().eval(pixels)
"""
SHORT = ("model=resnet20", "batch_size=4", "wandb.mode=disabled", "epochs=2")


@pytest.mark.parametrize("graph", ["rreg", "snip"])
def test_test_images_are_read_at_the_end(launch, tmp_path, monkeypatch, graph):
    (tmp_path / "mypkg.py").write_text(OWN_DATA)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    own = ("~dataset.source.num_images", "dataset.source._target_=mypkg.marked")
    images = ("graph.images=4",) if graph == "snip" else ()
    result = launch(
        *SHORT, *own, *images, "dataset.transform._target_=mypkg.Noting", f"graph={graph}"
    )
    assert result.returncode == 0, result.stderr
    before, _, after = result.stdout.partition("epoch 2/2")
    assert "a test image is read" not in before
    assert "a test image is read" in after


OWN_MODEL = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3, 1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, num_classes),
        )

    def forward(self, x):
        return self.layers(self.scale * x)
"""


def test_a_seed_draws_all_initial_values_of_a_model_of_ones_own(launch, tmp_path, monkeypatch):
    (tmp_path / "mypkg.py").write_text(OWN_MODEL)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    own = (
        "model._target_=mypkg.Scaled",
        "~model.width",
        "model.skip=[]",
        "dataset=digits",
        "graph=dense",
    )
    for folder in ("first", "second"):
        options = ("epochs=1", "wandb.mode=disabled", f"runs_dir={tmp_path / folder}")
        result = launch(*own, *options)
        assert result.returncode == 0, result.stderr
    first, second = (next((tmp_path / name).iterdir()) for name in ("first", "second"))
    states = [checkpoint.read(run / "last.pt")["state"] for run in (first, second)]
    assert states[0]["scale"].tolist() == states[1]["scale"].tolist()


def test_a_run_needs_its_predecessor_only_to_begin(launch, tmp_path, few_images):
    data = ("dataset=image_folder", f"dataset.root={tmp_path / 'images'}", "schedule=constant")
    shutil.copytree(few_images, tmp_path / "images")
    assert launch(*SHORT, *data).returncode == 0
    (first,) = (tmp_path / "runs").iterdir()
    longer = (*SHORT[:-1], *data, "epochs=3", f"start_from={first}")
    too_short = launch(*SHORT, *data, f"start_from={first}", "dry_run=true").stderr
    assert re.search(r"epochs=2: .* has trained 2; choose more", too_short)
    assert launch(*longer).returncode == 0
    (second,) = (path for path in (tmp_path / "runs").iterdir() if path != first)
    before = metrics(second)
    (second / "summary.json").unlink()
    shutil.rmtree(first)
    result = launch(*longer)
    assert result.returncode == 0, result.stderr
    assert metrics(second) == before
    assert f'"started_from": "{first}"' in (second / "summary.json").read_text()
    shutil.rmtree(second)
    assert f"start_from={first}: is not the folder of a run" in launch(*longer).stderr


def test_a_run_does_not_start_from_one_on_other_images(launch, tmp_path, few_images):
    data = ("dataset=image_folder", f"dataset.root={tmp_path / 'images'}", "schedule=constant")
    shutil.copytree(few_images, tmp_path / "images")
    assert launch(*SHORT, *data).returncode == 0
    (first,) = (tmp_path / "runs").iterdir()
    next((tmp_path / "images" / "train" / "dark").iterdir()).unlink()
    result = launch(*SHORT[:-1], *data, "epochs=3", f"start_from={first}")
    assert f"the images are not those that the run in {first} began with" in result.stderr


def test_what_another_version_says_of_a_wiring_does_no_harm(tmp_path):
    model = models.resnet20(2)
    wiring = draw(model)
    wire(model, wiring)
    blueprint = checkpoint.Blueprint("expanders.models.resnet20", {"num_classes": 2})
    path = tmp_path / "last.pt"
    checkpoint.save(path, model, blueprint, {}, origin=Origin("run", 0), wiring=wiring)
    content = checkpoint.read(path)
    content["wiring"] |= {"of another version": 1}
    del content["wiring"]["seconds"], content["wiring"]["facts"]
    checkpoint.write(path, content)
    again = checkpoint.wiring_of(checkpoint.read(path))
    assert (again.method, again.kept, again.facts) == ("rreg", wiring.kept, {})


def test_a_run_that_cannot_begin_leaves_nothing(launch_forked, tmp_path):
    small = ("epochs=1", "model.width=0.25", "wandb.mode=disabled")
    assert launch_forked(*small).returncode == 0
    (first,) = (tmp_path / "runs").iterdir()
    weights = first / "best.pt"
    for dry_run in ("dry_run=true", "dry_run=false"):
        result = launch_forked(*small, "degree=4", f"checkpoint={weights}", dry_run)
        assert re.match(r"error: checkpoint=.*: does not fit: .* has shape", result.stderr)
    assert list((tmp_path / "runs").iterdir()) == [first]


def test_a_checkpoint_may_have_as_many_edges_as_its_seed_gave(launch_forked, tmp_path):
    small = ("epochs=1", "model.width=0.25", "graph=random", "graph.binomial=true")
    assert launch_forked(*small, "wandb.mode=disabled").returncode == 0
    (first,) = (tmp_path / "runs").iterdir()
    more = (*small, "batch_size=64", f"checkpoint={first / 'best.pt'}", "dry_run=true")
    assert launch_forked(*more).returncode == 0
    assert "does not fit" in launch_forked(*more, "seed=1").stderr


def test_a_run_that_cannot_start_over_keeps_its_results(launch_forked, tmp_path):
    small = ("epochs=1", "model.width=0.25", "wandb.mode=disabled")
    assert launch_forked(*small).returncode == 0
    (first,) = (tmp_path / "runs").iterdir()
    shutil.copy(first / "best.pt", tmp_path / "start.pt")
    more = (*small, f"checkpoint={tmp_path / 'start.pt'}")
    assert launch_forked(*more).returncode == 0
    (second,) = (path for path in (tmp_path / "runs").iterdir() if path != first)
    (tmp_path / "start.pt").unlink()
    assert "no such file" in launch_forked(*more, "restart=true").stderr
    assert (second / "summary.json").exists()
    assert (second / "best.pt").exists()
    longer = (*small[1:], "epochs=2", f"checkpoint={tmp_path / 'start.pt'}", "dry_run=true")
    assert launch_forked(*longer, f"start_from={second}").returncode == 0, "it reads no checkpoint"


def test_a_dry_run_says_why_a_run_failed_and_what_restart_does(launch_forked):
    broken = ("epochs=1", "optimizer.lr=1e10", "wandb.mode=disabled")
    assert launch_forked(*broken).returncode == 1
    again = launch_forked(*broken, "dry_run=true")
    assert "tried again, it failed before: the training loss became" in again.stdout
    done = ("epochs=1", "model.width=0.25", "wandb.mode=disabled")
    assert launch_forked(*done).returncode == 0
    again = launch_forked(*done, "restart=true", "dry_run=true")
    assert "done" in again.stdout
    assert "; restart=true would train again" in again.stdout
