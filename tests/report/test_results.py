"""The published results: what stands on their page is made again from the records beside it."""

import re
import shlex
from pathlib import Path

import pytest

from expanders.report.__main__ import main

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "results" / "README.md").read_text()
COMMANDS = re.findall(r"^python -m expanders\.report (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The lines of the reports that the page's commands write."""
    lines = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for command in COMMANDS:
            out = tmp_path_factory.mktemp("report")
            main([*shlex.split(command), "--out", str(out)])
            lines.update((out / "report.md").read_text().splitlines())
    return lines


def test_every_row_of_every_table_is_one_of_the_report(reports):
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert [row for row in rows if row not in reports] == []


def test_nothing_of_the_records_is_left_out(reports):
    assert "## What was not used" not in reports
    counts = [line for line in reports if re.match(r"\d+ runs: ", line)]
    assert len(counts) == len(set(COMMANDS))
    assert all(re.fullmatch(r"(\d+) runs: \1 finished\.", line) for line in counts)
