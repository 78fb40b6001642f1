"""The launcher as a user starts it: a process, a command line, files."""

import errno
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import expanders
from launch import explained, user_error
from tests.conftest import ROOT
from tests.outcomes import without_times

FEW = ("epochs=1", "batch_size=4", "wandb.mode=disabled", "dataset=image_folder")


MINE = """
import torch
from torch import nn

class Fits(nn.Sequential):
    def __init__(self, num_classes):
        conv, head = nn.Conv2d(3, 8, 3), nn.Linear(8, num_classes)
        super().__init__(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)

class Reads(Fits):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.scale = float(self[0].weight.abs().mean())

class Chooses(Fits):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)

class Refuses(Fits):
    def forward(self, x):
        return super().forward(x[:, :2])

class Asserts(Fits):
    def forward(self, x):
        torch._assert(x.shape[-1] == 224, "Wrong image height")
"""


def run_of(tmp_path):
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    return folder


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_default_job_shortened(launch, tmp_path):
    result = launch("epochs=1")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for words in ("features.0", "complete graph", "epoch 1/1", "images/s", "test accuracy"):
        assert words in result.stdout
    assert re.search(r"first step \d+\.\d s", result.stdout)
    assert "offline; to upload this run: wandb sync" in result.stdout
    folder = run_of(tmp_path)
    files = {path.name for path in folder.iterdir()}
    assert files >= {
        "config.json", "metrics.jsonl", "summary.json", "graph.json", "best.pt", "last.pt",
        "run.log", "wandb",
    }  # fmt: skip
    assert not [name for name in files if name.endswith(".tmp")]

    summary = summary_of(folder)
    assert summary["params/live"] == 129_674
    assert summary["computed_by"]["pytorch"] == torch.__version__
    assert summary["params/dense"] == 14_990_922
    assert summary["graph/edges"] == 14_208
    assert summary["epochs"] == 1
    assert 0 <= summary["test/accuracy"] <= 1
    assert summary["test/loss"] > 0
    assert summary["val/accuracy"] == metrics_of(folder)[0]["val/accuracy"]
    assert 0 < summary["first_step_seconds"] < summary["seconds"]
    (epoch,) = metrics_of(folder)
    assert set(epoch) >= {
        "epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "lr",
        "images_per_second", "seconds", "first_step_seconds",
    }  # fmt: skip
    assert (folder / "best.pt").stat().st_size < 1_500_000
    layers = json.loads((folder / "graph.json").read_text())["layers"]
    assert len(layers) == 15
    config = json.loads((folder / "config.json").read_text())
    assert config["optimizer"]["lr"] == config["recipe"]["lr"]
    assert "${" not in json.dumps(config)

    again = launch("epochs=1")
    assert again.returncode == 0
    assert "Finished before" in again.stdout
    assert summary_of(folder) == summary


def test_the_same_command_gives_the_same_bits(launch, tmp_path, few_images):
    command = (*FEW, f"dataset.root={few_images}", "epochs=2", "num_threads=1")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        assert launch(*command, f"hydra.run.dir={folder}").returncode == 0
    first, second = (torch.load(folder / "best.pt", weights_only=True) for folder in folders)
    assert first["state"].keys() == second["state"].keys()
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in first["state"])
    rows = [[without_times(row) for row in metrics_of(folder)] for folder in folders]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    "model", ["resnet18", "resnet32", "resnet34", "resnet50", "resnet101", "resnet152"]
)
def test_every_model_runs(launch, tmp_path, few_images, model):
    result = launch(*FEW, f"dataset.root={few_images}", f"model={model}", "degree=4")
    assert result.returncode == 0, result.stderr
    summary = summary_of(run_of(tmp_path))
    assert summary["params/live"] < summary["params/dense"]
    blueprint = torch.load(run_of(tmp_path) / "best.pt", weights_only=True)["model"]
    assert blueprint == {
        "target": f"expanders.models.{model}",
        "arguments": {"num_classes": 2, "width": 1}
        | ({} if model == "resnet32" else {"stem": "imagenet"}),
    }


@pytest.mark.parametrize("graph", ["dense", "random", "xnet"])
def test_every_graph_runs(launch, tmp_path, few_images, graph):
    result = launch(*FEW, f"dataset.root={few_images}", f"graph={graph}", "degree.budget=paper")
    assert result.returncode == 0, result.stderr
    folder = run_of(tmp_path)
    assert f"-{graph}-" in folder.name
    dense = summary_of(folder)["params/live"] == summary_of(folder)["params/dense"]
    assert dense == (graph == "dense")
    loaded = expanders.load(folder / "best.pt")
    assert sum(p.numel() for p in loaded.parameters()) == summary_of(folder)["params/live"]


def test_another_optimizer_and_schedule_run(launch, few_images):
    root = f"dataset.root={few_images}"
    options = ("optimizer=adamw", "schedule=cosine", "label_smoothing=0.1", "clip_grad_norm=1")
    assert launch(*FEW, root, "model=resnet32", *options).returncode == 0


def test_a_sweep_over_degrees_and_graphs(launch, tmp_path, few_images):
    axes = ("-m", "degree=3,15", "graph=rreg,xnet", "model=resnet32")
    result = launch(*axes, *FEW, f"dataset.root={few_images}")
    assert result.returncode == 0, result.stderr
    folders = [path.parent for path in (tmp_path / "runs").glob("*/summary.json")]
    cells = {re.sub(r"-s0-\w+$", "", folder.name) for folder in folders}
    expected = {f"resnet32-images-{g}-d{d}" for g in ("rreg", "xnet") for d in (3, 15)}
    assert cells == expected


def test_zero_epochs_evaluate_a_checkpoint(launch, tmp_path, few_images):
    common = (*FEW, f"dataset.root={few_images}", "model=resnet32")
    assert launch(*common, "epochs=2", f"hydra.run.dir={tmp_path / 'a'}").returncode == 0
    best = tmp_path / "a" / "best.pt"
    again = launch(*common, "epochs=0", f"checkpoint={best}", f"hydra.run.dir={tmp_path / 'b'}")
    assert again.returncode == 0, again.stderr
    trained, loaded = summary_of(tmp_path / "a"), summary_of(tmp_path / "b")
    for key in ("test/accuracy", "test/loss", "val/loss"):
        assert loaded[key] == pytest.approx(trained[key])
    assert loaded["epochs"] == 0
    other = launch(*common, "epochs=0", f"checkpoint={best}", "seeds.graph=5")
    assert other.returncode == 1
    assert "is another graph" in other.stderr


def test_seeds_pin_one_stream_apart(launch, tmp_path, few_images):
    common = (*FEW, f"dataset.root={few_images}", "model=resnet32", "epochs=0")
    states = {}
    for name, options in {
        "plain": [],
        "graph": ["seeds.graph=7"],
        "init": ["seeds.init=7"],
        "other": ["seed=1", "seeds.graph=0", "seeds.init=0"],
    }.items():
        assert launch(*common, *options, f"hydra.run.dir={tmp_path / name}").returncode == 0
        states[name] = torch.load(tmp_path / name / "best.pt", weights_only=True)["state"]
    edges, weight = "blocks.1.conv1.edges", "conv1.weight"

    def differs(name, key):
        return not torch.equal(states["plain"][key], states[name][key])

    assert (differs("graph", edges), differs("graph", weight)) == (True, False)
    assert (differs("init", edges), differs("init", weight)) == (False, True)
    assert (differs("other", edges), differs("other", weight)) == (False, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["graph=nonsense"], ["graph=nonsense: no such option", "rreg", "--config-dir"]),
        (["nonsense=3"], ["nonsense"]),
        (["+nonsense=3"], ["nonsense=3", "there are: model"]),
        (["degree.value=abc"], ["degree.value=abc", "must be a number"]),
        (["degree=0"], ["degree.value=0", "at least 1"]),
        (["epochs=ten"], ["epochs=ten", "an integer"]),
        (["epochs=-1"], ["epochs=-1", "must be 0"]),
        (["batch_size=0"], ["batch_size=0", "must be 2 or more"]),
        (["optimizer.lr=-0.1"], ["optimizer.lr=-0.1", "above 0"]),
        (["optimizer.momentum=-1"], ["momentum", "-1"]),
        (["device=cuda:7"], ["device=cuda:7", "device=cpu"]),
        (["device=abacus"], ["device=abacus", "auto, cpu"]),
        (["device=meta"], ["device=meta", "auto, cpu"]),
        (["dataset.transform.crop=16"], ["dataset.transform.crop=16", "another size"]),
        (["dataset=cifar10", "dataset.root=/nonexistent/place"], ["/nonexistent/place"]),
        (["dataset=image_folder"], ["dataset.root", "must be given"]),
        (["dataset=image_folder", "dataset.root=nowhere"], ["dataset.root=nowhere"]),
        (["checkpoint=nowhere.pt"], ["checkpoint=nowhere.pt", "no such file"]),
        (["runs_dir=/proc/nowhere"], ["/proc/nowhere", "runs_dir=FOLDER"]),
        (["model.skip=[nonsense]"], ["model.skip=nonsense", "features.0"]),
        (["dataset.val_fraction=2"], ["dataset.val_fraction=2"]),
        (
            ["model._target_=os.system", "~model.width", "+model.command=echo"],
            ["os.system", "blocklisted"],
        ),
        (["model._target_=builtins.dict"], ["builtins.dict", "must return a torch.nn.Module"]),
        (
            ["model._target_=nonsense.x"],
            ["model._target_=nonsense.x", "must be the dotted name of a function"],
        ),
        (["graph.measures=all"], ["measures=all", "default or full"]),
        (["degree=3,15"], ["--multirun"]),
        (["degree=[3,15]"], ["degree.value=[3, 15]", "must be a number"]),
        (["degree=nan"], ["degree.value=nan", "must be a number"]),
        (["-m", "seed=0,1", "seed=5"], ["seed=0,1 would be lost: seed=5 replaces it"]),
        (["-m", "degree=3,15", "degree.value=60"], ["degree.value=3,15 would be lost"]),
        (["-m", "seed=0,1", "seed=2,3"], ["seed=0,1 would be lost"]),
        (["-m", "seed=", "dry_run=true"], ["seed=: must be an integer"]),
        (["-m", "seed=range(0,3,0)"], ["values of an axis cannot be listed: range() arg 3"]),
        (["-m", "hydra.sweeper.max_batch_size=0"], ["max_batch_size=0: must be an integer"]),
        (["-m", "hydra.sweeper.max_batch_size=x"], ["max_batch_size=x: must be an integer"]),
        (["-m", "hydra/sweeper=ax"], ["hydra/sweeper/ax", "needs the package hydra-ax-sweeper"]),
        (["-m", "hydra.sweeper.grids=text"], ["hydra.sweeper.grids=text", "a list of mappings"]),
        (["hydra.sweeper.grids=[{seed:1}]"], ["hydra.sweeper.grids", "add -m"]),
        (["model=null"], ["a group takes the name of one of its options"]),
        (["seeds=null"], ["seeds=null", "must be a group of settings"]),
        (["optimizer.weight_decay=-1"], ["Invalid weight_decay"]),
        (["graph=rewired", "graph.p=3"], ["error: graph.p=3", "between 0 and 1"]),
        (["graph=thin", "degree.value=abc", "hydra.run.dir=x"], ["degree.value=abc", "a number"]),
        (["wandb.dir=/dev/null/x"], ["wandb.dir=/dev/null/x: cannot be written"]),
        (
            ["graph=snip", "graph.images=9999"],
            ["graph.images=9999", "there are 1294 training images; choose fewer"],
        ),
        (["graph=snip", "degree=0"], ["degree.value=0", "at least 1"]),
        (["epoch=3"], ["epoch: no such setting; is it epochs?"]),
        (["zzz=3"], ["zzz: no such setting; --help lists them"]),
        (["runs_dir=${oops}"], ["hydra.run.dir: ${oops} is no setting"]),
        (["graph=snip", "checkpoint=nowhere.pt"], ["checkpoint=nowhere.pt: no such file"]),
        (["graph=snip", "graph.images=0"], ["graph.images=0", "scores by training images"]),
        (["graph.scope=layer"], ["Could not override 'graph.scope'"]),
        (["+graph.scope=layer"], ["graph.scope=layer: no such setting here", "draws"]),
        (["graph=snip", "graph.scope=world"], ["graph.scope=world", "network or layer"]),
        (
            ["graph=synflow", "degree=total", "degree.parameters=14100"],
            ["degree.parameters=14100", "one edge per layer needs"],
        ),
        (["start_from=nowhere"], ["start_from=nowhere", "not the folder of a run"]),
        (["wandb.mode=online"], ["wandb.mode=online", "needs a login"]),
        (
            ["model=torchvision", "model.name=mobilenet_v4"],
            ["model.name=mobilenet_v4", "near ones: mobilenet_v2"],
        ),
        (["model=torchvision"], ["model.name: must be given"]),
        (["model=torchvision", "model.name=googlenet"], ["returns more than logits"]),
        (
            ["model=torchvision", "model.name=vit_b_16"],
            ["no images of 32x32 pixels (Wrong image height!", "+model.image_size=32"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_gets_one_line(launch_forked, tmp_path, arguments, words):
    """From the run, and before it from a dry run, which leaves no trace."""
    short = [] if arguments[0].startswith("epochs") else ["epochs=0"]
    dry_run = launch_forked(*arguments, *short, "dry_run=true")
    assert not list(tmp_path.glob("runs/*"))
    result = launch_forked(*arguments, *short)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    if "dataset=cifar10" not in arguments:  # only the run tries to download
        assert (dry_run.returncode, dry_run.stderr) == (1, result.stderr)


def test_a_model_that_takes_no_images_of_this_size_is_refused_before_decoding(
    launch_forked, tmp_path, few_images
):
    shutil.copytree(few_images, tmp_path / "images", ignore=shutil.ignore_patterns("*.cache"))
    data = ("dataset=image_folder", f"dataset.root={tmp_path / 'images'}", "dataset.source.size=16")
    result = launch_forked(*data, "epochs=0", "graph=snip")
    assert "the model takes no images of 16x16 pixels" in result.stderr
    assert not list((tmp_path / "images").glob("*.cache"))


def test_broken_images_are_listed_in_one_line(launch_forked, tmp_path, few_images):
    shutil.copytree(few_images, tmp_path / "images", ignore=shutil.ignore_patterns("*.cache"))
    broken = [tmp_path / "images" / name for name in ("train/dark/0.jpg", "test/light/1.jpg")]
    for path in broken:
        path.write_bytes(b"not an image")
    data = ("dataset=image_folder", f"dataset.root={tmp_path / 'images'}")
    result = launch_forked(*data, "model=resnet20", "epochs=0")
    assert result.returncode == 1
    reason = "no image of a format that is read here"
    for words in ("2 files are not readable images", *(f"{path} ({reason})" for path in broken)):
        assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_dry_run_of_a_sweep_names_the_runs_that_would_fail(launch_forked, tmp_path):
    result = launch_forked("-m", "degree=0,3", "model=resnet20", "seed=0,1", "dry_run=true")
    assert result.returncode == 1
    problems = [row for row in result.stdout.splitlines() if "give a number of at least 1" in row]
    assert len(problems) == 2
    assert all("degree.value=0" in row for row in problems)
    assert result.stderr == "error: 2 of 4 runs would fail\n"
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_builds_what_the_meta_device_cannot(launch_forked, tmp_path, monkeypatch):
    """Networks that read values while they are built, or while they compute."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name, code, words in (
        ("Fits", 0, "to do"),
        ("Reads", 0, "to do"),
        ("Chooses", 0, "to do"),
        ("Refuses", 1, "the model takes no images of 32x32 pixels"),
        ("Asserts", 1, "the model takes no images of 32x32 pixels (Wrong image height)"),
    ):
        model = (f"model._target_=mine.{name}", "~model.width", "model.skip=[]")
        result = launch_forked(*model, "dry_run=true")
        assert result.returncode == code, result.stderr
        assert words in result.stdout + result.stderr
        if code:
            run = launch_forked(*model)
            assert re.fullmatch(r"error: .*the model takes no images of 32x32 .*\n", run.stderr)


def test_of_two_values_the_last_one_holds_as_in_hydra(launch_forked):
    """`python launch.py epochs=5 "$@"` in a script."""
    for command, expected in (
        (["degree=3", "degree.value=60"], ["-d60-"]),
        (["-m", "epochs=5", "epochs=1", "seed=0,1"], ["epochs=1", "2 runs"]),
        (["-m", "seed=5", "seed=0,1"], ["-s0-", "-s1-", "2 runs"]),
        (["-m", "seed=0,1", "seed=0,1"], ["-s0-", "-s1-", "2 runs"]),
    ):
        result = launch_forked(*command, "model=resnet20", "dry_run=true")
        assert result.returncode == 0, result.stderr
        for words in expected:
            assert words in result.stdout


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"seed: [1,\n  x: {\n", "corrupt.yaml"),
        (b"hydra: {sweeper: {grids: [{seed: 1}]}}", "add -m"),
        (b"x: &x {y: *x}", "a YAML file refers to itself"),
        (b"x: \xff", "a YAML file is no text in UTF-8 ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_bad_sweep_file_gets_one_line(launch_forked, tmp_path, content, words):
    (tmp_path / "corrupt.yaml").write_bytes(b"defaults: [config, _self_]\n" + content)
    result = launch_forked("-cd", str(tmp_path), "-cn", "corrupt", "dry_run=true")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_a_full_disk_that_names_no_file_has_a_remedy_too():
    error = OSError(errno.ENOSPC, "No space left on device")
    expected = "error: No space left on device; runs_dir=FOLDER chooses another place to write"
    assert explained(error) == expected


def test_hydra_full_error_shows_everything(launch_forked, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    result = launch_forked("epochs=0", "checkpoint=nowhere.pt")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "SettingError" in result.stderr
    assert "checkpoint=nowhere.pt: no such file" in result.stderr


@pytest.mark.parametrize("full", [True, False])
def test_output_that_nobody_takes_ends_no_run(tmp_path, full):
    """A full disk, and a reader that has seen enough, as in `| head -1`."""
    if full:
        output = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, output = os.pipe()
        os.close(reader)
    small = ("epochs=0", "model=resnet20", "dataset.source.num_images=100", "wandb.mode=disabled")
    result = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *small],
        cwd=tmp_path, stdout=output, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(output)
    assert (result.returncode, result.stderr) == (0, "")
    assert "test accuracy" in (run_of(tmp_path) / "run.log").read_text()


def test_too_little_memory_is_one_line():
    for lacking in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: bytes(1 << 60)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            lacking()
        assert user_error(caught.value) is caught.value
        assert explained(caught.value).startswith("error: not enough memory (")
    assert user_error(RuntimeError("a mistake in the program")) is None


def test_settings_that_cannot_work_leave_no_folder(launch_forked, tmp_path):
    for place in ([], [f"hydra.run.dir={tmp_path / 'here'}"]):
        for bad in ("optimizer.lr=abc", "epochs=-1"):
            assert launch_forked(bad, *place).returncode == 1
    assert not list(tmp_path.glob("runs/*"))
    assert not (tmp_path / "here").exists()


def test_a_folder_with_another_run_is_not_overwritten(launch, tmp_path, few_images):
    root = f"dataset.root={few_images}"
    common = (*FEW, root, "model=resnet32", f"hydra.run.dir={tmp_path / 'a'}")
    assert launch(*common).returncode == 0
    result = launch(*common, "batch_size=6")
    assert result.returncode == 1
    assert "batch_size 4 -> 6" in result.stderr
    assert "restart=true" in result.stderr
    assert launch(*common, "batch_size=6", "restart=true").returncode == 0
    assert json.loads((tmp_path / "a" / "config.json").read_text())["batch_size"] == 6


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_files(launch, tmp_path, few_images):
    common = (*FEW, f"dataset.root={few_images}", "model=resnet32", "epochs=5")
    result = launch(*common, "optimizer.lr=1e30")
    assert result.returncode == 1
    assert re.search(r"error: the training loss became .* in epoch \d, step \d", result.stderr)
    folder = run_of(tmp_path)
    assert not (folder / "summary.json").exists()
    assert torch.load(folder / "last.pt", weights_only=True)["training"] is not None


def test_ctrl_c_keeps_the_checkpoint_and_the_same_command_continues(tmp_path, launch, few_images):
    common = (*FEW, f"dataset.root={few_images}", "model=resnet32", f"hydra.run.dir={tmp_path}/a")
    with subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *common, "epochs=2000"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Where the tests run in a shell's background, they and their children would ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        for line in process.stdout:
            if line.startswith("epoch") and " 2/" in line:
                break
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert stderr.strip() == (
        "interrupted; the same command continues after the last checkpoint, unless it says "
        "restart=true"
    )
    done = torch.load(tmp_path / "a" / "last.pt", weights_only=True)["training"]["history"]
    assert len(done) >= 2
    assert len(metrics_of(tmp_path / "a")) == len(done)


def test_a_terminal_gets_a_progress_bar(tmp_path, few_images):
    """On a pseudo-terminal, where the output of a pipe has plain lines only."""
    main, other = pty.openpty()
    common = (*FEW, f"dataset.root={few_images}", "model=resnet32", "epochs=2")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), *common],
        cwd=tmp_path, stdout=other, stderr=other, env=os.environ | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(other)
    shown = b""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not chunk:
            break
        shown += chunk
    assert process.wait(timeout=60) == 0
    assert b"epoch 1/2" in shown
    assert "━".encode() in shown


@pytest.mark.parametrize("flag", [["--help"], ["--cfg", "job"], ["--info", "defaults"]])
def test_looking_at_the_configuration_does_not_import_pytorch(tmp_path, flag):
    code = (
        "import sys, atexit, runpy; atexit.register(lambda: print('torch' in sys.modules));"
        f"sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['launch.py', *{flag!r}, 'degree=15'];"
        f"runpy.run_path({str(ROOT / 'launch.py')!r}, run_name='__main__')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip().endswith("False")
    assert "vgg16bn" in result.stdout


def test_thin_networks_are_named_and_built_by_their_width(launch, tmp_path):
    done = launch("graph=thin", "model=resnet32", "epochs=0", "wandb.mode=disabled")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("resnet32-digits-thin-d3-s0-")
    config = json.loads((folder / "config.json").read_text())
    assert 0 < config["model"]["width"] < 1
    summary = json.loads((folder / "summary.json").read_text())
    sparse = launch("graph=rreg", "model=resnet32", "epochs=0", "wandb.mode=disabled")
    assert sparse.returncode == 0, sparse.stderr
    (other,) = (tmp_path / "runs").glob("*rreg*")
    live = json.loads((other / "summary.json").read_text())["params/live"]
    assert summary["params/live"] == pytest.approx(live, rel=0.02)
    refused = launch("graph=thin", "model=torchvision", "model.name=vgg11", "epochs=0")
    assert "graph=thin: this model has no width to make thin" in refused.stderr


def test_an_image_folder_is_trained_on_the_disk_and_must_stay_as_it_was(
    launch, tmp_path, few_images
):
    at = ("model=resnet20", f"dataset.root={tmp_path / 'images'}")
    shutil.copytree(few_images, tmp_path / "images")
    results = []
    for storage in ("disk", "memory"):
        result = launch(
            *FEW, *at, f"dataset.storage={storage}", f"dataset.cache={tmp_path}", "restart=true"
        )
        assert result.returncode == 0, result.stderr
        assert ("the images stay on disk" in result.stdout) == (storage == "disk")
        results.append(without_times(summary_of(run_of(tmp_path))))
        del results[-1]["digest"]  # of the times, too
    assert results[0] == results[1]
    (run_of(tmp_path) / "summary.json").unlink()  # as if it had been cut off
    next((tmp_path / "images" / "train" / "dark").iterdir()).unlink()
    result = launch(*FEW, *at)
    assert result.returncode != 0
    assert "the images are not those that the run in" in result.stderr
    assert "Traceback" not in result.stderr
