"""Nothing lost, nothing done twice: runs and sweeps that are killed, damaged or short of space."""

import logging
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock
from unittest.mock import Mock

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

from expanders.data import Images, Transform
from expanders.errors import SettingError
from expanders.files import write_atomically
from expanders.runs import checkpoint, folders, resume
from expanders.runs.lock import LostLockError, locked
from expanders.runs.predecessor import facts_of, read_predecessor
from expanders.runs.run import Run
from expanders.runs.tracking import WandbSettings
from expanders.training import compilation, schedules
from expanders.training.processes import Team
from expanders.training.settings import Settings
from expanders.training.trainer import Trainer
from expanders.wiring import native, operator
from expanders.wiring.draw import draw
from expanders.wiring.wire import wire
from launch import explained
from tests.conftest import ROOT
from tests.outcomes import metrics, outcome, outcomes, started, wait_for, without_times
from tests.runs.test_tracking import of_type, records

OFF = WandbSettings(mode="disabled")
needs_a_compiler = pytest.mark.skipif(not native.is_available(), reason="no C++ compiler")
HALVED = partial(schedules.step, step_size=2)


def network(num_classes: int) -> nn.Module:
    """With all that has a state of its own: batch norm, dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, num_classes),
    )


def run_in(
    folder, *, wandb=OFF, minutes=math.inf, seed=0, check=lambda: None,
    epochs=4, schedule=HALVED, start_from=None, scheduled=None,
) -> Run:  # fmt: skip
    """A small run, built afresh as a new process would: 4 epochs of 4 steps."""
    folder.mkdir(exist_ok=True)
    settings = {"epochs": epochs, "definition": {"epochs": epochs, "seed": seed}}
    if start_from is not None:
        settings["definition"]["start_from"] = start_from.name
    if scheduled is not None:
        settings["definition"]["schedule"] = scheduled
    folders.begin(folder, settings)
    identity = folders.run_digest(settings)
    saved = resume.newest(folder, identity, Team())
    torch.manual_seed(seed)
    blueprint = checkpoint.Blueprint(f"{__name__}.network", {"num_classes": 2})
    model = blueprint.build()
    predecessor = read_predecessor(start_from, settings) if start_from and not saved else None
    trained = predecessor.saved if predecessor else saved
    wiring = trained.wiring if trained else draw(model, seed=seed)
    report = wire(model, wiring)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(14) % 2
    noise = torch.randint(100, (14, 3, 8, 8), generator=generator)
    images = Images((noise + 50 * labels[:, None, None, None]).to(torch.uint8), labels)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        schedule=schedule(optimizer),
        train=images,
        val=images,
        transform=Transform(mean=[128] * 3, std=[64] * 3, pad=1, crop=8, flip=True),
        settings=Settings(epochs=epochs, batch_size=4),
        seed=seed,
        before=trained.arithmetic if trained else None,
    )
    checkpoints = resume.Checkpoints(folder, blueprint, identity, wiring, check=check)
    return Run(
        folder, settings, report, trainer, images, wandb, checkpoints,
        saved=saved, predecessor=predecessor, checkpoint_minutes=minutes,
    )  # fmt: skip


class PowerCut(BaseException):
    """Ends a run at once, as far as a process can end itself."""


def cut(run: Run, *, epoch: int, step: int) -> None:
    """Let `run` go on until that step (from 1), and no further."""
    augmented = run.trainer._augmented

    def until_the_cut(*arguments):
        if run.trainer.epoch + 1 == epoch and run.trainer.steps + 1 == step:
            raise PowerCut
        return augmented(*arguments)

    run.trainer._augmented = until_the_cut
    with pytest.raises(PowerCut):
        run.execute()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What `run_in` comes to when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_in(folder).execute()
    return outcome(folder)


@pytest.mark.parametrize("minutes", [0, math.inf])
@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 3), (3, 1), (4, 4)])
def test_a_run_cut_off_anywhere_ends_as_if_nothing_had_happened(
    tmp_path, undisturbed, minutes, epoch, step
):
    cut(run_in(tmp_path, minutes=minutes), epoch=epoch, step=step)
    again = run_in(tmp_path, minutes=minutes)
    again._continue()
    assert (again.trainer.epoch, again.trainer.steps) == (epoch - 1, 0 if minutes else step - 1)
    run_in(tmp_path, minutes=minutes).execute()
    assert outcome(tmp_path) == undisturbed


def test_every_step_may_be_the_last_one_of_a_process(tmp_path, undisturbed):
    """A machine that dies again and again still arrives."""
    for epoch, step in [(1, 2), (1, 4), (2, 3), (3, 2), (3, 3), (4, 1)]:
        cut(run_in(tmp_path, minutes=0), epoch=epoch, step=step)
    run_in(tmp_path, minutes=0).execute()
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("damage", ["cut short", "emptied", "bits flipped"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, undisturbed, caplog, damage):
    cut(run_in(tmp_path, minutes=0), epoch=3, step=3)
    last = tmp_path / "last.pt"
    content = last.read_bytes()
    flipped = content[:2000] + bytes(255 - byte for byte in content[2000:4000]) + content[4000:]
    last.write_bytes({"cut short": content[:-900], "emptied": b"", "bits flipped": flipped}[damage])
    with caplog.at_level(logging.INFO):
        run_in(tmp_path, minutes=0).execute()
    assert "last.pt is damaged: put aside as damaged-last.pt" in caplog.text
    assert "Continuing after 2 epochs and 1 steps, from" in caplog.text
    assert outcome(tmp_path) == undisturbed


def test_a_cut_between_two_renames_falls_back_too(tmp_path, undisturbed):
    cut(run_in(tmp_path), epoch=4, step=1)
    (tmp_path / "last.pt").replace(tmp_path / "previous.pt")
    run_in(tmp_path).execute()
    assert outcome(tmp_path) == undisturbed


def test_with_both_checkpoints_damaged_a_run_starts_over_and_says_so(tmp_path, undisturbed, caplog):
    cut(run_in(tmp_path), epoch=3, step=1)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"dust")
    run_in(tmp_path).execute()
    assert caplog.text.count("is damaged") == 2
    assert f"No checkpoint in {tmp_path} is whole: starting over" in caplog.text
    assert outcome(tmp_path) == undisturbed


def test_a_kill_between_two_renames_costs_nothing(tmp_path, undisturbed, caplog):
    """The newest checkpoint is whole, but not yet called last.pt."""
    caplog.set_level("INFO")
    cut(run_in(tmp_path, minutes=0), epoch=3, step=3)
    (tmp_path / "last.pt").replace(tmp_path / "new.pt")
    assert folders.state(tmp_path) == folders.State.CUT_OFF
    run_in(tmp_path, minutes=0).execute()
    assert f"Continuing after 2 epochs and 2 steps, from {tmp_path / 'new.pt'}" in caplog.text
    assert outcome(tmp_path) == undisturbed
    assert not (tmp_path / "new.pt").exists()


def test_a_damaged_best_network_is_made_again_or_the_remedy_is_named(tmp_path):
    for best, epochs in ((4, 4), (2, 4), (2, 3)):
        folder = tmp_path / f"{best}{epochs}"
        run = run_in(folder)
        evaluated = iter([{"loss": 1.0, "accuracy": each == best} for each in (1, 2, 3, 4, 9, 9)])
        run.trainer.evaluate = lambda images, rows=evaluated: next(rows)
        if epochs == 4:
            run.execute()
            (folder / "summary.json").unlink()
        else:
            cut(run, epoch=4, step=2)
        (folder / "best.pt").write_bytes(b"dust")
        again = run_in(folder)
        trained = again.trainer.run_epoch = Mock()
        if best == 4:
            again.execute()
            assert checkpoint.read(folder / "best.pt")["origin"]["epoch"] == 4
        else:
            words = r"best.pt: is damaged, missing, or not of epoch 2, .*restart=true trains"
            with pytest.raises(SettingError, match=words):
                again.execute()
        assert not trained.called, "told before the remaining epochs"


def test_the_same_wandb_run_continues_on_the_right_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    offline = WandbSettings(mode="offline")
    parts = []
    for epoch, step in ((2, 2), (4, 3), (9, 9)):
        run = run_in(tmp_path / "run", wandb=offline, minutes=0)
        if epoch < 9:
            cut(run, epoch=epoch, step=step)
        else:
            run.execute()
        parts.append(_set_aside(tmp_path / "run" / "wandb", epoch))
    rows = [row for part in parts for row in records(part)]
    assert len({row["run_id"] for row in of_type(rows, "run")}) == 1
    history = of_type(rows, "history")
    assert [row["step"]["num"] for row in history] == [1, 2, 3, 4]
    lines = [without_times(row) for row in metrics(tmp_path / "run")]
    items = [{key: row["item"][key] for key in lines[0]} for row in history]
    assert items == lines


def _set_aside(folder, number):
    """Move W&B's files of one attempt to a folder of their own."""
    part = folder.parent.parent / f"part{number}"
    part.mkdir()
    folder.replace(part / "wandb")
    return part


def test_no_clock_decides_what_is_newest(tmp_path, undisturbed):
    cut(run_in(tmp_path, minutes=0), epoch=3, step=3)
    for name, seconds in {"last.pt": 0, "previous.pt": 4e9, "graph.json": 3e9}.items():
        os.utime(tmp_path / name, (seconds, seconds))
    run_in(tmp_path, minutes=0).execute()
    assert outcome(tmp_path) == undisturbed


@contextmanager
def tmpfs(folder, options):
    """A file system of its own, or a skipped test where mounting is not permitted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a file system of its own cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full_disk(folder):
    """Room for a part of a checkpoint only."""
    filler = folder / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(folder).free - 8192))
    yield
    filler.unlink()


@contextmanager
def small_files(folder):
    """The operating system's limit on the size of a file, below that of a checkpoint."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def breaks_off(folder, disk, words):
    """Train with little room: the run ends with a clear line, and nothing is lost."""
    cut(run_in(folder, minutes=0), epoch=3, step=2)
    before = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    with disk(folder):
        with pytest.raises(OSError, match=words) as error:
            run_in(folder, minutes=0).execute()
        line = explained(error.value)
    assert (
        line == f"error: {folder}/new.pt: {words}; runs_dir=FOLDER chooses another place to write"
    )
    after = {path.name: path.read_bytes() for path in folder.glob("*.pt")}
    assert after == before
    assert not list(folder.glob(".new.pt*")), "the part that fitted is removed"
    run_in(folder, minutes=0).execute()


def test_a_disk_that_fills_up_during_a_checkpoint_loses_nothing(tmp_path, undisturbed):
    folder = tmp_path / "disk"
    with tmpfs(folder, "size=256k"):
        breaks_off(folder, full_disk, "No space left on device")
        assert outcome(folder) == undisturbed


def test_a_limit_on_the_size_of_files_loses_nothing(tmp_path, undisturbed):
    breaks_off(tmp_path, small_files, "File too large")
    assert outcome(tmp_path) == undisturbed


CELL = (
    *("model=resnet32", "dataset=image_folder", "batch_size=4", "epochs=5"),
    *("num_threads=1", "wandb.mode=disabled"),
)
SCORED = ("graph=snip", "graph.images=8", "graph.granularity=weight")
GRAPHS = (
    'hydra.sweeper.grids=[{graph: "rreg,magnitude"},'
    "{graph: snip, graph.images: 8, graph.granularity: weight}]"
)


def test_a_read_only_folder_is_named(launch, tmp_path, few_images):
    folder = tmp_path / "disk"
    with tmpfs(folder, "ro"):
        result = launch(*CELL, f"dataset.root={few_images}", f"runs_dir={folder}")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {folder}/resnet32-images-rreg-d3-s0-")
    assert line.endswith(": Read-only file system; runs_dir=FOLDER chooses another place to write")


ASKED_FOR = ("model=resnet20", "epochs=0", "wandb.mode=disabled", "dataset.source.num_images=50")


def only_line(result):
    """What a run says that could not begin."""
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    return line


def test_a_finished_run_can_be_asked_for_on_a_drive_that_cannot_be_written(launch_forked, tmp_path):
    disk = tmp_path / "disk"
    with tmpfs(disk, "size=40m"):
        command = (*ASKED_FOR, f"runs_dir={disk / 'runs'}")
        assert launch_forked(*command).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for arguments, words in (
            ((), "Finished before"),
            (("dry_run=true",), "done "),
            (("-m",), "1 run: all done"),
            (("-m", "seed=0,1", "dry_run=true"), "2 runs: 1 to do, 1 done"),
        ):
            result = launch_forked(*arguments, *command)
            assert (result.returncode, result.stderr) == (0, "")
            assert words in result.stdout
        for arguments in (("restart=true",), ("seed=1",)):
            line = only_line(launch_forked(*command, *arguments))
            assert line.startswith(f"error: {disk}/runs/resnet20-")
            assert "Read-only file system; runs_dir=FOLDER" in line


def test_a_log_that_cannot_be_written_is_named(launch_forked, tmp_path):
    assert launch_forked(*ASKED_FOR).returncode == 0
    (written,) = tmp_path.glob("runs/*/run.log")
    with read_only(written):
        assert "Finished before" in launch_forked(*ASKED_FOR).stdout
        assert "done " in launch_forked(*ASKED_FOR, "dry_run=true").stdout
        line = only_line(launch_forked(*ASKED_FOR, "restart=true"))
    assert line.startswith(f"error: {written}: ")
    assert (written.parent / "summary.json").exists(), "it is not removed before the log is there"


@contextmanager
def read_only(file):
    """A file that nobody can write, not even root; or a skipped test, where that is impossible."""
    for options in (("--bind", file, file), ("-o", "remount,bind,ro", file)):
        mounted = subprocess.run(["mount", *map(str, options)], capture_output=True, check=False)
        if mounted.returncode:
            pytest.skip("files cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(file)], check=True)


@pytest.mark.parametrize("inodes", [2, 3, 5, 7])
def test_a_drive_without_an_inode_left_is_named(launch_forked, tmp_path, inodes):
    with tmpfs(tmp_path / "disk", f"size=40m,nr_inodes={inodes}"):
        line = only_line(launch_forked(*ASKED_FOR, f"runs_dir={tmp_path / 'disk'}"))
    assert line.startswith(f"error: {tmp_path}/disk/resnet20-")
    assert "No space left on device" in line


@pytest.fixture(scope="module")
def undisturbed_sweep(tmp_path_factory, few_images):
    """The outcomes of a sweep that nothing happened to, one run after the other."""
    folder = tmp_path_factory.mktemp("sweep")
    with started(folder, "-m", *CELL, GRAPHS, f"dataset.root={few_images}") as process:
        assert process.wait(timeout=300) == 0, (folder / "started.log").read_text()
    return outcomes(folder / "runs")


def test_a_killed_process_is_followed_by_one_that_goes_on(
    tmp_path, launch, few_images, undisturbed_sweep
):
    """SIGKILL in the middle of an epoch; meanwhile no other process may train there."""
    command = (*CELL, *SCORED, f"dataset.root={few_images}", "checkpoint_minutes=0")
    with started(tmp_path, *command) as process:
        wait_for(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")), "the first epoch")
        (folder,) = (tmp_path / "runs").iterdir()
        losses = []
        while not 0 < len(losses) < 3:
            os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.01)
            os.kill(process.pid, signal.SIGSTOP)
            if (folder / "last.pt").exists():  # if not, it stopped between two renames
                training = torch.load(folder / "last.pt", weights_only=True)["training"]
                losses = training.get("partial_epoch", {"losses": []})["losses"]
        second = launch(*command)
        assert second.returncode == 1
        assert f"process {process.pid} on " in second.stderr
        assert "is training in this folder; wait for it or stop it" in second.stderr
    done = len(metrics(folder))
    assert 1 <= done < 5

    result = launch(*command)
    assert result.returncode == 0, result.stderr
    steps = len(losses)
    assert f"Continuing after {done} epochs and {steps} steps, from" in result.stdout
    assert outcome(folder) == undisturbed_sweep[folder.name]


def test_a_killed_sweep_goes_on(tmp_path, launch, few_images, undisturbed_sweep):
    """Under joblib, with one run in the middle, one done or in the middle, one not begun."""
    command = (
        *("-m", "hydra/launcher=local", *CELL, GRAPHS),
        *(f"dataset.root={few_images}", "checkpoint_minutes=0.001"),
    )
    with started(tmp_path, *command):
        wait_for(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")), "the first epoch")
    assert len(list(tmp_path.glob("runs/*/summary.json"))) < 3
    listed = launch(*command, "dry_run=true")
    assert "3 runs: " in listed.stdout
    assert " to resume" in listed.stdout

    result = launch(*command)
    assert result.returncode == 0, result.stderr
    assert "Continuing after" in result.stdout
    assert outcomes(tmp_path / "runs") == undisturbed_sweep


def test_killing_the_command_of_a_sweep_ends_its_workers(tmp_path, few_images):
    """They would go on with their runs, and then wait for others for minutes."""
    cell = [word if not word.startswith("epochs=") else "epochs=100000" for word in CELL]
    command = ("-m", "hydra/launcher=local", *cell, GRAPHS, f"dataset.root={few_images}")
    with started(tmp_path, *command, "compile=none") as process:
        wait_for(lambda: list(tmp_path.glob("runs/*/metrics.jsonl")), "the first epoch")
        process.kill()
        process.wait()
        wait_for(lambda: not is_group(process.pid), "the end of the workers", seconds=60)


ORPHAN = """
import multiprocessing, os, time
from expanders.runs.workers import end_with_parent, name_command

def work(parent):
    try:
        while True:
            os.kill(parent, 0)
            time.sleep(0.01)
    except ProcessLookupError:
        end_with_parent()
    print("lives on", flush=True)

name_command()
multiprocessing.get_context("fork").Process(target=work, args=(os.getpid(),)).start()
os._exit(0)
"""


def test_a_worker_whose_command_was_killed_before_its_run_began_does_not_begin(tmp_path):
    path = tmp_path / "said.txt"
    with path.open("w") as said:
        command = [sys.executable, "-c", ORPHAN]
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, process_group=0)
        assert process.wait(timeout=60) == 0
    wait_for(lambda: not is_group(process.pid), "the end of the worker", seconds=60)
    assert path.read_text() == ""


def is_group(number):
    """Whether there is a process of this group that is not a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if int(group) == number and state not in "ZX":
                return True
    return False


def files(folder):
    """All that a run has written, byte for byte."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != "run.log"}


def test_the_checkpoint_of_another_run_is_refused(tmp_path, undisturbed):
    """`cp seed7/last.pt seed0/` would go on with the weights of seed 7; nothing is touched."""
    cut(run_in(tmp_path / "7", seed=7), epoch=3, step=1)
    cut(run_in(tmp_path / "0"), epoch=2, step=1)
    own = (tmp_path / "0" / "last.pt").read_bytes()
    shutil.copy(tmp_path / "7" / "last.pt", tmp_path / "0")
    before = files(tmp_path / "0")
    with pytest.raises(SettingError, match=r"last.pt: is another run's; remove it, or begin a run"):
        run_in(tmp_path / "0")
    assert files(tmp_path / "0") == before
    (tmp_path / "0" / "last.pt").write_bytes(own)
    run_in(tmp_path / "0").execute()
    assert outcome(tmp_path / "0") == undisturbed


def test_another_best_network_is_not_evaluated(tmp_path):
    """Neither another run's nor that of another epoch: `cp last.pt best.pt`."""
    cut(run_in(tmp_path / "7", seed=7), epoch=3, step=1)
    for source in (tmp_path / "7" / "best.pt", tmp_path / "0" / "last.pt"):
        run = run_in(tmp_path / "0")
        best_is_the_second = iter([{"loss": 1.0, "accuracy": each} for each in (0.5, 0.7, 0.6)])
        run.trainer.evaluate = lambda images, rows=best_is_the_second: next(rows)
        cut(run, epoch=4, step=2)
        shutil.copy(source, tmp_path / "0" / "best.pt")
        with pytest.raises(SettingError, match=r"best.pt: is damaged, missing, or not of epoch 2"):
            run_in(tmp_path / "0").execute()
        shutil.rmtree(tmp_path / "0")


def test_a_best_network_in_the_place_of_the_last_is_put_aside(tmp_path, undisturbed, caplog):
    cut(run_in(tmp_path, minutes=0), epoch=3, step=2)
    shutil.copy(tmp_path / "best.pt", tmp_path / "last.pt")
    run_in(tmp_path).execute()
    assert "last.pt is not one to continue from: put aside as damaged-last.pt" in caplog.text
    assert outcome(tmp_path) == undisturbed


def test_what_was_put_aside_is_never_replaced(tmp_path, undisturbed):
    for number in range(3):
        cut(run_in(tmp_path, minutes=0), epoch=2, step=3)
        (tmp_path / "last.pt").write_bytes(b"dust %d" % number)
    run_in(tmp_path).execute()
    names = ("damaged-last.pt", "damaged-last-2.pt", "damaged-last-3.pt")
    assert [(tmp_path / name).read_bytes() for name in names] == [b"dust 0", b"dust 1", b"dust 2"]
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), OSError(5, "Input/output error"), MemoryError()],
)
def test_what_cannot_be_read_ends_the_run_and_stays(tmp_path, undisturbed, monkeypatch, error):
    cut(run_in(tmp_path, minutes=0), epoch=3, step=3)
    before = files(tmp_path)
    read_bytes = Path.read_bytes

    def fail(path):
        if path.suffix == ".pt":
            raise error
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        with pytest.raises(
            SettingError, match=r"last.pt: cannot be read \(.*the same command tries"
        ):
            run_in(tmp_path)
    assert files(tmp_path) == before
    run_in(tmp_path).execute()
    assert outcome(tmp_path) == undisturbed


def test_a_folder_that_another_process_may_have_is_left_alone(tmp_path, undisturbed):
    """The lock was removed by hand in the middle of a run; another process begins."""
    with locked(tmp_path) as first:
        run = run_in(tmp_path, minutes=0, check=first.check)
        run_epoch = run.trainer.run_epoch
        epochs = []

        def then_the_lock_goes(on_step):
            row = run_epoch(on_step)
            epochs.append(row)
            if len(epochs) == 2:
                (tmp_path / "lock").unlink()
                before.update(files(tmp_path))
            return row

        before = {}
        run.trainer.run_epoch = then_the_lock_goes
        with pytest.raises(LostLockError, match="another process may train here now"):
            run.execute()
        assert files(tmp_path) == before
        with locked(tmp_path) as second:
            run_in(tmp_path, check=second.check).execute()
    assert outcome(tmp_path) == undisturbed


def test_a_run_that_continues_takes_its_edges_from_its_checkpoint(tmp_path, undisturbed):
    """A newer numeric library may draw others."""
    cut(run_in(tmp_path), epoch=3, step=2)
    with mock.patch(f"{__name__}.draw", side_effect=AssertionError):
        run_in(tmp_path).execute()
    assert outcome(tmp_path) == undisturbed


@pytest.mark.parametrize("content", [b"", b" ", b"\xff\xfe", b"a b", b"x" * 1000])
def test_a_damaged_identity_on_wandb_is_replaced(tmp_path, content):
    (tmp_path / "wandb_id").write_bytes(content)
    run = run_in(tmp_path)
    new = run._wandb_id()
    assert len(new) == 8
    assert run._wandb_id() == new
    (tmp_path / "wandb_id").write_text("of-a-sweep_1\n")
    assert run._wandb_id() == "of-a-sweep_1"


@pytest.mark.parametrize("size", ["340k", "780k", "1020k"])
def test_a_full_disk_is_named_whatever_pytorch_makes_of_it(tmp_path, size):
    """PyTorch reports `unexpected pos` when its file ends before its time."""
    with tmpfs(tmp_path / "disk", f"size={size}"):
        path = tmp_path / "disk" / "last.pt"
        for megabytes in (1, 2, 3):
            content = {str(i): torch.zeros(60_000 // 7 * i) for i in range(30 * megabytes)}
            with pytest.raises(OSError, match="No space left on device") as error:
                write_atomically(path, lambda file, it=content: torch.save(it, file))
            assert error.value.filename == str(path)
        assert not list(path.parent.iterdir())


def test_a_removed_folder_is_the_error_that_is_shown(tmp_path):
    run = run_in(tmp_path / "run")
    run_epoch = run.trainer.run_epoch

    def then_the_folder_goes(on_step):
        row = run_epoch(on_step)
        shutil.rmtree(tmp_path / "run")
        return row

    run.trainer.run_epoch = then_the_folder_goes
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: '.*new\.pt'"):
        run.execute()


def test_a_run_starts_from_another_and_trains_more_epochs(tmp_path):
    """4 epochs and then 2 more are 6, bit for bit, with a schedule that does not know its end."""
    run_in(tmp_path / "six", epochs=6).execute()
    run_in(tmp_path / "four").execute()
    before = files(tmp_path / "four")
    cut(run_in(tmp_path / "more", epochs=6, start_from=tmp_path / "four"), epoch=6, step=2)
    again = run_in(tmp_path / "more", epochs=6, start_from=tmp_path / "four")
    assert again.predecessor is None, "it has checkpoints of its own by now"
    again.facts = facts_of(tmp_path / "four")
    summary = again.execute()
    assert summary["started_from"] == str(tmp_path / "four")
    assert summary["test_read_before"] is True
    assert files(tmp_path / "four") == before
    whole, parts = outcome(tmp_path / "six"), outcome(tmp_path / "more")
    whole.pop("summary"), parts.pop("summary")  # which says where it started from
    assert parts == whole


def test_the_best_epoch_may_be_one_of_the_run_before(tmp_path):
    run = run_in(tmp_path / "four")
    accuracies = iter([{"loss": 1.0, "accuracy": each} for each in (0.5, 0.9, 0.6, 0.6, 0, 0)])
    run.trainer.evaluate = lambda images: next(accuracies)
    run.execute()
    more = run_in(tmp_path / "more", epochs=5, start_from=tmp_path / "four")
    more.trainer.evaluate = lambda images: {"loss": 1.0, "accuracy": 0.7}
    assert more.execute()["best_epoch"] == 2
    ours, theirs = (checkpoint.read(tmp_path / name / "best.pt") for name in ("more", "four"))
    assert all(torch.equal(ours["state"][name], theirs["state"][name]) for name in theirs["state"])


def test_a_schedule_with_another_end_says_what_that_means(tmp_path, caplog):
    cosine = partial(schedules.cosine, epochs=4)
    run_in(tmp_path / "four", schedule=cosine).execute()
    longer = partial(schedules.cosine, epochs=8)
    run = run_in(tmp_path / "more", epochs=5, schedule=longer, start_from=tmp_path / "four")
    run.execute()
    assert (
        "The rate goes on at 0.05, not at 0: the schedule is another, or depends on" in caplog.text
    )
    assert run.trainer.history[4]["lr"] == pytest.approx(0.05)
    assert run.trainer.optimizer.param_groups[0]["lr"] == pytest.approx(
        0.05 * (1 + math.cos(math.pi * 5 / 8))
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (partial(StepLR, step_size=2), partial(StepLR, step_size=1)),
        (partial(StepLR, step_size=2), HALVED),
        (HALVED, partial(StepLR, step_size=2)),
    ],
)
def test_a_schedule_that_saves_its_settings_cannot_be_changed(tmp_path, before, after):
    run_in(tmp_path / "four", schedule=before).execute()
    others = {"schedule": after, "scheduled": {"step_size": 1}, "start_from": tmp_path / "four"}
    more = run_in(tmp_path / "more", epochs=6, **others)
    with pytest.raises(
        SettingError,
        match="schedule=.*: start_from cannot change it .schedule.step_size default -> 1.",
    ):
        more.execute()


def test_only_a_whole_run_of_the_same_settings_can_be_started_from(tmp_path):
    def refused(words, **options):
        with pytest.raises(SettingError, match=words):
            run_in(tmp_path / "more", **{"epochs": 6, **options}).execute()

    refused("start_from=.*/none: is not the folder of a run", start_from=tmp_path / "none")
    cut(run_in(tmp_path / "within", minutes=0), epoch=3, step=3)
    refused("stopped within an epoch; let it finish first", start_from=tmp_path / "within")
    run_in(tmp_path / "four").execute()
    words = r"has other settings \(seed 0 -> 7\); only epochs and schedule may differ"
    refused(words, start_from=tmp_path / "four", seed=7)
    refused("epochs=4: .*/four has trained 4; choose more", start_from=tmp_path / "four", epochs=4)
    shutil.copy(tmp_path / "within" / "last.pt", tmp_path / "four")
    (tmp_path / "four" / "best.pt").write_bytes(b"dust")
    refused("best.pt: is damaged", start_from=tmp_path / "four")
    run_in(tmp_path / "seven", seed=7).execute()
    shutil.copy(tmp_path / "within" / "last.pt", tmp_path / "seven")
    refused("holds checkpoints that are not this run's", start_from=tmp_path / "seven", seed=7)


@needs_a_compiler
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_goes_on_stays_with_what_auto_chose_for_its_length(tmp_path, monkeypatch):
    """4 epochs of 14 images are too short for the native norm, and 8 are not."""
    monkeypatch.setattr(compilation, "_WORTH_JOINING", 100)
    run_in(tmp_path / "four").execute()
    assert run_in(tmp_path / "begun", epochs=8).trainer.arithmetic.compilation.norm == "native"
    cut(run_in(tmp_path / "more", epochs=8, start_from=tmp_path / "four"), epoch=6, step=2)
    again = run_in(tmp_path / "more", epochs=8, start_from=tmp_path / "four")
    assert again.trainer.arithmetic.compilation.norm == "torch"
    again.execute()
    monkeypatch.undo()
    run_in(tmp_path / "eight", epochs=8).execute()
    whole, parts = outcome(tmp_path / "eight"), outcome(tmp_path / "more")
    whole.pop("summary"), parts.pop("summary")
    assert parts == whole


@needs_a_compiler
def test_a_run_that_continues_stays_with_the_execution_of_its_layers(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(operator, "is_faster_sparse", lambda _, num_left, *__: num_left > 4)
    cut(run_in(tmp_path), epoch=2, step=3)
    before = run_in(tmp_path).trainer.arithmetic.execution
    assert set(before.values()) == {"sparse", "dense"}
    monkeypatch.setattr(operator, "is_faster_sparse", lambda *_: True)
    again = run_in(tmp_path)
    again._continue()
    assert again.trainer.arithmetic.execution == before
    assert "otherwise" not in caplog.text


@pytest.mark.parametrize(
    ("what", "now"),
    [
        ("threads", "threads 1 -> 7"),
        ("device", "device cpu -> mps"),
        ("processes", "processes 1 -> 3"),
        ("precision", "precision fp32 -> bf16"),
        ("execution", "execution of 2 of 2 layers"),
    ],
)
def test_a_run_that_continues_says_what_is_computed_otherwise(tmp_path, caplog, what, now):
    cut(run_in(tmp_path), epoch=2, step=3)
    run = run_in(tmp_path)
    known = run.trainer.arithmetic
    *_, value = now.split()
    other = int(value) if value.isdigit() else dict.fromkeys(known.execution, "other")
    other = value if isinstance(getattr(known, what), str) else other
    run.trainer.arithmetic = replace(known, **{"threads": 1, what: other})
    run._continue()
    lines = [each.getMessage() for each in caplog.records if "otherwise" in each.getMessage()]
    assert len(lines) == 1
    assert f"Computed otherwise than so far ({now}): the bits may not be" in lines[0]
