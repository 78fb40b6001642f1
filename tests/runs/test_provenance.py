"""What a run says of the software and the machine that computed it."""

import subprocess

import torch

from expanders.runs import provenance as module
from expanders.runs.provenance import commit, processor, provenance
from expanders.training.arithmetic import Arithmetic
from expanders.training.compilation import Compilation


def git(folder, *arguments):
    settings = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_a_run_names_its_software_and_its_machine():
    arithmetic = Arithmetic("cpu", 1, 2, "fp32", False, Compilation("none", "native"))
    found = provenance(arithmetic)
    assert (found["pytorch"], found["threads"], found["norm"]) == (torch.__version__, 2, "native")
    assert found["device"] == processor() != ""


def test_the_commit_of_a_checkout_and_whether_files_were_changed(tmp_path, monkeypatch):
    package = tmp_path / "expanders" / "runs"
    package.mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(package / "provenance.py"))
    assert commit() is None  # it is no checkout
    git(tmp_path, "init", "-q")
    assert commit() is None  # nothing is committed
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "release")
    assert commit() == git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "file").write_text("two")
    assert commit() == git(tmp_path, "rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None  # there is no git
