"""Two processes on the CPU train what one trains, to rounding."""

import copy
import json
import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from expanders import models, sparsify
from expanders.errors import SettingError, TeamError
from expanders.training.processes import Team, local_rank
from tests.conftest import ROOT


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def compare_gradients(rank: int, port: int) -> None:
    """In each of two processes: gradients and statistics of uneven shares against the whole."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    whole = models.resnet32(2).double()
    sparsify(whole, seed=0)
    shared = copy.deepcopy(whole)
    inputs, labels = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.arange(5) % 2
    F.cross_entropy(whole(inputs), labels).backward()
    team = Team(rank, 2)
    parallel = team.parallel(shared)  # kept, as it sums the gradients
    logits = parallel(team.share(inputs))
    loss = F.cross_entropy(logits, team.share(labels), reduction="sum") / len(labels)
    (loss * team.size).backward()
    for ours, theirs in zip(whole.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(whole.buffers(), shared.buffers(), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-9, atol=1e-12)
    dist.destroy_process_group()


def compare_norms(rank: int, port: int) -> None:
    """In each of two processes: norms of every kind, over three batches."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    team = Team(rank, 2)
    for options in (
        {},
        {"momentum": None},
        {"affine": False},
        {"track_running_stats": False},
        {"momentum": None, "affine": False, "eps": 0.1},
    ):
        whole = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, **options)).double()
        shared = copy.deepcopy(whole)
        parallel = team.parallel(shared)
        for _ in range(3):
            inputs = torch.randn(5, 3, 4, 4, dtype=torch.float64)
            expected = team.share(whole(inputs))
            torch.testing.assert_close(parallel(team.share(inputs)), expected)
        for ours, theirs in zip(whole.buffers(), shared.buffers(), strict=True):
            torch.testing.assert_close(theirs, ours)
        whole.eval(), shared.eval()
        torch.testing.assert_close(shared(inputs), whole(inputs))
    dist.destroy_process_group()


def wait_for_a_writer_that_fails(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=60))

    def make() -> None:
        raise SettingError("graph", "x", "cannot be had")

    expected = SettingError if rank == 0 else TeamError
    with pytest.raises(expected, match="graph=x: cannot be had"):
        Team(rank, 2).from_writer(make)
    assert Team(rank, 2).from_writer(lambda: 7) == 7, "and they can go on together"
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_no_process_waits_for_a_writer_that_failed():
    torch.multiprocessing.spawn(wait_for_a_writer_that_fails, args=(free_port(),), nprocs=2)


@pytest.mark.filterwarnings("ignore")
def test_norms_of_every_kind_are_those_of_the_whole_batch():
    torch.multiprocessing.spawn(compare_norms, args=(free_port(),), nprocs=2)


@pytest.mark.filterwarnings("ignore")
def test_shares_of_a_batch_have_the_gradients_and_statistics_of_the_whole():
    torch.multiprocessing.spawn(compare_gradients, args=(free_port(),), nprocs=2)


def torchrun(tmp_path, *arguments, processes=2):
    command = [
        *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run"),
        *("--nproc-per-node", str(processes)),
        *("--master-addr", "127.0.0.1", "--master-port", str(free_port()), str(ROOT / "launch.py")),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [*command, *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def common(few_images):
    return (
        *("dataset=image_folder", f"dataset.root={few_images}", "model=resnet32", "epochs=3"),
        *("batch_size=4", "wandb.mode=offline", "optimizer.lr=1e-3"),
    )


def test_two_processes_train_what_one_trains(launch, tmp_path, common):
    """With edges from weights and images, which both processes must have."""
    common = (*common, "graph=snip", "graph.images=8")
    alone = launch(*common, f"hydra.run.dir={tmp_path}/alone")
    assert alone.returncode == 0, alone.stderr
    team = torchrun(tmp_path, *common, f"hydra.run.dir={tmp_path}/team")
    assert team.returncode == 0, team.stderr
    folders = [tmp_path / "alone", tmp_path / "team"]
    for ours, theirs in zip(*(metrics_of(folder) for folder in folders), strict=True):
        assert theirs["train/loss"] == pytest.approx(ours["train/loss"], rel=1e-3)
    first, second = (torch.load(folder / "last.pt", weights_only=True) for folder in folders)
    for name, value in first["state"].items():
        torch.testing.assert_close(second["state"][name], value, rtol=1e-2, atol=1e-3)
    edges = [name for name in first["state"] if name.endswith("edges")]
    assert edges
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in edges)
    assert team.stdout.count("epoch 3/3") == 1, "one process speaks"
    assert len(list((tmp_path / "team").glob("wandb/offline-run-*"))) == 1, "and logs"

    again = torchrun(tmp_path, *common, f"hydra.run.dir={tmp_path}/team")
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("Finished before") == 1


def test_two_processes_continue_together(tmp_path, common):
    """Cut off by an epoch limit that is not part of the comparison: the checkpoint of epoch 1."""
    whole = torchrun(tmp_path, *common, f"hydra.run.dir={tmp_path}/whole")
    assert whole.returncode == 0, whole.stderr
    cut = tmp_path / "cut"
    assert torchrun(tmp_path, *common, f"hydra.run.dir={cut}").returncode == 0
    (cut / "summary.json").unlink()
    (cut / "previous.pt").replace(cut / "last.pt")
    rest = torchrun(tmp_path, *common, f"hydra.run.dir={cut}")
    assert rest.returncode == 0, rest.stderr
    assert rest.stdout.count("Continuing after 2 epochs") == 1
    states = [
        torch.load(folder / "last.pt", weights_only=True)["state"]
        for folder in (tmp_path / "whole", cut)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-6)


def test_what_stops_the_first_process_is_told_to_the_others(launch, tmp_path, common):
    at = f"hydra.run.dir={tmp_path}/taken"
    assert launch(*common, at).returncode == 0
    result = torchrun(tmp_path, *common, "seed=7", at)
    assert result.returncode != 0
    assert "error: hydra.run.dir" in result.stderr
    assert "error: the first process of the run failed: hydra.run.dir" in result.stderr


@pytest.mark.parametrize("rank", ["0", "x"])
def test_variables_of_torchrun_without_torchrun_are_named(monkeypatch, rank):
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingError, match=r"RANK=x?: .* or unset LOCAL_RANK$"):
        local_rank()


def test_a_batch_has_an_image_for_every_process(tmp_path, common):
    result = torchrun(tmp_path, *common, "batch_size=2", processes=3)
    assert result.returncode != 0
    assert "error: batch_size=2: must be at least the number of processes, 3" in result.stderr
