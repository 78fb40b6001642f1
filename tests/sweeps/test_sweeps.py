"""Every file under sweeps/: its runs, its header, and the life of a sweep."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from expanders.runs.lock import locked
from tests.conftest import ROOT

SWEEPS = {path.stem: path for path in sorted((ROOT / "sweeps").glob("*.yaml"))}
RUNS = {
    "vgg_cifar10": 12,
    "vgg_tinyimagenet": 3,
    "resnet_cifar10": 15,
    "resnet_tinyimagenet": 15,
    "dense": 12,
    "paper": 57,
    "smoke": 33,
    "expansion": 33,
    "arena": 123,
    "arena_smoke": 41,
    "study": 95,
    "study_added": 25,
    "study_seeds": 9,
    "study_pilot": 114,
}
# Of the largest sweeps a part is listed, to save time: the overrides, and how many runs it has.
PARTS = {
    "arena": (["optimizer.lr=0.05"], 41),
    "study": (["seed=0"], 19),
    "study_added": (["seed=0"], 5),
    "study_pilot": (["optimizer.lr=0.05", "init.fan=dense"], 20),
}
ROWS = ("vgg_cifar10", "vgg_tinyimagenet", "resnet_cifar10", "resnet_tinyimagenet", "dense")


def sweep(launch, name, *arguments):
    return launch("-cd", str(ROOT / "sweeps"), "-cn", name, *arguments)


def runs_of(result):
    assert result.returncode == 0, result.stderr
    return {Path(word).name for word in result.stdout.split() if word.startswith("runs/")}


def test_every_sweep_has_its_number_of_runs():
    assert RUNS.keys() == SWEEPS.keys()


@pytest.fixture(scope="module")
def many_images(few_images, tmp_path_factory):
    """Enough of them for the wirings that look at 100."""
    root = tmp_path_factory.mktemp("many") / "images"
    for path in few_images.rglob("*.jpg"):
        folder = root / path.parent.relative_to(few_images)
        folder.mkdir(parents=True, exist_ok=True)
        for copy in range(10):
            os.link(path, folder / f"{path.stem}-{copy}.jpg")
    return root


def listed(launch, name, root):
    """The runs that a dry run lists; it starts none. The folder of the data may be named."""
    theirs = [] if "smoke" in name else [f"dataset.root={root}"]  # of digits
    overrides, count = PARTS.get(name, ([], RUNS[name]))
    result = sweep(launch, name, "dry_run=true", *theirs, *overrides)
    assert len(runs_of(result)) == count
    assert f"{count} runs: {count} to do" in result.stdout
    return runs_of(result)


@pytest.mark.parametrize("name", sorted(SWEEPS.keys() - {"paper", *ROWS}))
def test_a_dry_run_lists_the_runs_and_starts_none(launch, tmp_path, many_images, name):
    root = many_images if name.startswith("study") else tmp_path / "data"
    listed(launch, name, root)
    assert not list(tmp_path.glob("runs/*/*"))


def test_the_paper_is_the_union_of_its_rows(launch, tmp_path):
    """Sweeps over several data sets among them."""
    rows = [listed(launch, name, tmp_path / "data") for name in ROWS]
    assert listed(launch, "paper", tmp_path / "data") == set().union(*rows)
    assert sum(len(row) for row in rows) == 57


def test_several_data_sets_on_the_command_line_may_have_one_folder(launch_forked):
    axes = ("-m", "dataset=cifar10,tinyimagenet", "graph=dense", "dry_run=true")
    result = launch_forked(*axes, "dataset.root=here")
    assert result.stderr.rstrip().endswith("use ++dataset.root=here")
    assert len(runs_of(launch_forked(*axes, "++dataset.root=here"))) == 2


def test_what_all_runs_share_is_said_once(launch_forked):
    result = launch_forked("-m", "seed=0,1", "model=resnet20", "degree=0", "dry_run=true")
    shared, *runs = result.stdout.splitlines()[:3]
    assert shared == "all runs:  model=resnet20 degree.value=0"
    assert [run.split()[3:] for run in runs] == [["seed=0"], ["seed=1"]]
    assert re.search(r"-s0-\w+  seed=0: degree.value=0", result.stdout)  # why it would fail


@pytest.mark.parametrize("name", SWEEPS)
def test_a_header_gives_command_and_number_of_runs(name):
    first, second = SWEEPS[name].read_text().splitlines()[:2]
    assert first.startswith(f"# python launch.py -cd sweeps -cn {name}")
    assert re.match(rf"# {RUNS[name]} runs of ", second)


def test_seeds_multiply_a_sweep_and_one_override_makes_its_budgets_equal(launch):
    paper = runs_of(sweep(launch, "vgg_tinyimagenet", "seed=0,1,2", "dry_run=true"))
    assert len(paper) == 9
    equal = runs_of(sweep(launch, "vgg_tinyimagenet", "degree.budget=equal", "dry_run=true"))
    assert len(equal) == 3
    assert not paper & equal


UNTRAINED = ("-m", "model=resnet32", "batch_size=4", "wandb.mode=disabled", "epochs=0")
TINY = (*UNTRAINED[:-1], "epochs=1")


def images(few_images):
    return ("dataset=image_folder", f"dataset.root={few_images}")


def test_a_failing_cell_does_not_stop_the_others_and_is_tried_again(launch, tmp_path, few_images):
    """Images of two runs are damaged; the second time they are not."""
    shutil.copytree(few_images, tmp_path / "others")
    damaged = next((tmp_path / "others").rglob("*.jpg"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100])
    roots = f"dataset.root={few_images},{tmp_path / 'others'}"
    axes = (*TINY, "dataset=image_folder", roots, "graph=rreg,xnet")

    result = launch(*axes)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "error: 2 of 4 runs are not done; the same command tries them again" in result.stderr
    assert damaged.name in result.stdout
    done = [path.parent for path in tmp_path.glob("runs/*/summary.json")]
    assert len(done) == 2
    (failed, _) = tmp_path.glob("runs/*/failure.json")
    assert "Traceback" in json.loads(failed.read_text())["traceback"]

    damaged.write_bytes(content)
    again = launch(*axes)
    assert again.returncode == 0, again.stderr
    assert "4 runs: 2 failed, 2 done" in again.stdout
    assert again.stdout.count("epoch 1/1") == 2, "done runs are not run again"


def test_nothing_to_do_is_said(launch, few_images):
    axes = (*UNTRAINED, *images(few_images), "graph=rreg")
    assert launch(*axes).returncode == 0
    again = launch(*axes)
    assert again.returncode == 0
    assert "1 run: 1 done" in again.stdout


def test_runs_that_another_command_trains_are_left_to_it(launch, tmp_path, few_images):
    axes = (*TINY, *images(few_images), "graph=rreg,xnet")
    planned = runs_of(launch(*axes, "dry_run=true"))
    (theirs,) = (tmp_path / "runs" / name for name in planned if "-xnet-" in name)
    theirs.mkdir(parents=True)
    with locked(theirs):
        result = launch(*axes)
    assert result.returncode == 1
    assert "2 runs: 1 to do, 1 training" in result.stdout
    assert f"process {os.getpid()} on " in result.stdout
    assert "error: 1 of 2 runs are not done" in result.stderr
    assert not list(theirs.glob("*.pt"))
    assert launch(*axes).returncode == 0


def test_torchrun_trains_no_sweep(launch, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    result = launch(*TINY)
    assert result.returncode == 1
    assert result.stderr.startswith("error: torchrun trains one run, not a sweep")


def test_an_unknown_sweep_lists_those_that_exist(launch):
    result = sweep(launch, "papre")
    assert result.returncode == 1
    for name in SWEEPS:
        assert name in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("nothing", ["seed=range(0,0)", "model=glob(x*)", "hydra.sweeper.grids=[]"])
def test_a_sweep_without_runs_is_refused(launch, nothing):
    result = sweep(launch, "smoke", nothing)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: the sweep has no runs: give hydra.sweeper.grids a grid")


def test_a_grid_in_yaml_may_have_null(launch, few_images):
    grid = "hydra.sweeper.grids=[{clip_grad_norm: [null, 1]}]"
    result = launch(*TINY, *images(few_images), grid, "dry_run=true")
    assert "clip_grad_norm=null" in result.stdout
    assert "2 runs: 2 to do" in result.stdout


def test_numbers_for_the_degree_are_its_values_in_a_grid_too(launch, few_images):
    grid = "hydra.sweeper.grids=[{degree: '3,15'}]"
    result = launch(*TINY, *images(few_images), grid, "dry_run=true")
    assert "degree.value=15" in result.stdout
    assert "2 runs: 2 to do" in result.stdout
    first = launch(*TINY, *images(few_images), grid, "degree=30", "dry_run=true")
    assert "1 run: 1 to do" in first.stdout  # the command line wins
    other = launch(*TINY, *images(few_images), grid, "degree=erk", "dry_run=true")
    assert "1 run: 1 to do" in other.stdout, other.stderr


def test_one_dense_twin_for_all_graphs(launch, few_images):
    """What a dense network does not use makes no other network of it."""
    axes = ("graph=dense", "degree=3,15", "init.fan=dense,live", "seeds.graph=0,1,2")
    result = launch(*TINY, *images(few_images), *axes, "seeds.init=0,1", "dry_run=true")
    assert "2 runs: 2 to do" in result.stdout


def test_a_sweep_that_starts_over_tells_old_results_from_new_ones(launch, tmp_path, few_images):
    axes = (*UNTRAINED, *images(few_images), "graph=rreg,xnet")
    assert launch(*axes).returncode == 0
    (theirs,) = tmp_path.glob("runs/*-xnet-*")
    (theirs / "lock").unlink()
    (theirs / "lock").mkdir()  # so that this run cannot begin
    result = launch(*axes, "restart=true")
    assert result.returncode == 1
    assert "1 of 2 runs are not done; the same command, without restart=true, tries" in (
        result.stderr
    )


def test_runs_that_would_share_a_folder_are_refused(launch, few_images):
    result = launch(*TINY, *images(few_images), "seed=0,1", "hydra.sweep.subdir=same")
    assert result.returncode == 1
    assert "error: 2 runs share the folder runs/same" in result.stderr
