"""What README and docs say is there, and works."""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.run_folders import write_run

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


def test_the_readme_shows_the_two_commands_that_ci_runs():
    commands = (ROOT / ".ci" / "commands").read_text().splitlines()
    assert len(commands) == 2
    assert set(commands) <= set((ROOT / "README.md").read_text().splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text())
    targets = [(page.parent / path if path else page, anchor) for path, anchor in links]
    assert [path for path, _ in targets if not path.exists()] == []
    assert [link for link in targets if link[1] and link[1] not in anchors(link[0])] == []


def anchors(page: Path) -> list[str]:
    """Where links into a page may lead: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def commands() -> list[str]:
    """All command lines that the pages show, once each."""
    found = {}
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                found |= dict.fromkeys([" ".join(line.partition(" #")[0].split())])
    return [command for command in found if command]


# Commands that are run elsewhere, or cannot be: by what is in them.
NOT_RUN = {
    ".venv": "CI and every contributor begin with these",
    "pip install": "needs a network",
    "hydra/sweeper=optuna": "tests/sweeps/test_searches.py runs it",
    "start_from=": "tests/runs/test_build.py runs it, with a folder in place of the dots",
    "RUN_DIR": "tests/export runs these, with a folder",
    "examples/c": "tests/export runs it, with a folder",
    "MODELS": "any graph models",
    "docs/results": "tests/report/test_results.py runs these",
}
RUN = [each for each in commands() if not any(words in each for words in NOT_RUN)]


def test_every_command_is_of_a_kind_that_is_run():
    kinds = ("python launch.py", "python -m expanders.graphs", "python -m expanders.report")
    assert [command for command in RUN if not command.startswith(kinds)] == []
    assert len(RUN) > 20


@pytest.mark.parametrize("command", [each for each in RUN if "launch.py" in each])
def test_commands_of_the_launcher_do_what_a_dry_run_can_tell(launch_forked, command):
    """A sweep's file is reduced to one cell: tests/sweeps has them all."""
    arguments = shlex.split(command)[2:]
    if "-cd" in arguments:
        arguments += ["hydra.sweeper.grids=[{}]", "seed=0"]
        arguments[arguments.index("-cd") + 1] = str(ROOT / "sweeps")
        arguments = [each for each in arguments if each != "seed=0,1,2"]
    result = launch_forked(*arguments, *([] if "--help" in arguments else ["dry_run=true"]))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("command", [each for each in RUN if "expanders.graphs" in each])
def test_commands_that_look_at_graphs(tmp_path, command):
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    result = run_in(tmp_path, command)
    assert result.returncode == 0, result.stderr
    assert "rreg" in result.stdout


@pytest.mark.parametrize("command", [each for each in RUN if "expanders.report" in each])
def test_commands_of_the_report(tmp_path, command):
    root = tmp_path / "runs" / "example"
    for seed, lr, fan in itertools.product(range(2), (0.05, 0.1), ("dense", "live")):
        for graph in ("rreg", "xnet", "random", "blocks", "thin"):
            write_run(root, graph, seed=seed, lr=lr, fan=fan)
    for p in (0.0, 0.5, 1.0):
        gap = {"graph/normalised_gap_mean": p}
        write_run(root, "rewired", options={"p": p}, measures=gap)
    result = run_in(tmp_path, command)
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("runs/**/index.html"))


def run_in(folder: Path, command: str) -> "subprocess.CompletedProcess[str]":
    """A command of Python's, as typed in `folder`."""
    arguments = [sys.executable, *shlex.split(command)[1:]]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
