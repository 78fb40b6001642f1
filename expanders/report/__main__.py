"""Write the report of a folder of runs.

python -m expanders.report runs
python -m expanders.report runs --out report --contrast rreg:xnet --contrast rewired
python -m expanders.report runs --tuned optimizer.lr --tuned init.fan
"""

import argparse
import importlib.metadata
import logging
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from expanders.errors import SettingError

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; errors that a user can mend are one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m expanders.report", description="Write the report of a folder of runs."
    )
    parser.add_argument("runs_dir", metavar="RUNS_DIR", type=Path, help="a folder of run folders")
    parser.add_argument(
        "--out", type=Path, help="where to write (default: the folder `report` in RUNS_DIR)"
    )
    parser.add_argument(
        "--contrast",
        action="append",
        default=[],
        metavar="A:B",
        help="a comparison declared before the runs, rreg:xnet, or the slope along a dial's "
        "normalised gap, rewired; all others are corrected for their number",
    )
    parser.add_argument(
        "--tuned",
        action="append",
        default=[],
        metavar="KEY",
        help="a setting, such as optimizer.lr, whose value the validation images choose in each "
        "cell, instead of one table for each value",
    )
    options = parser.parse_args(arguments)
    version = importlib.metadata.version("expanders")
    command = shlex.join(["python", "-m", "expanders.report", *arguments])
    made = (
        f"Written by “{command}” of expanders {version} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    )
    out = options.out or options.runs_dir / "report"
    try:
        print(write(options.runs_dir, out, options.contrast, options.tuned, made))
    except SettingError as error:
        sys.exit(f"error: {error}")


def write(
    runs_dir: Path,
    out: Path,
    contrasts: Sequence[str] = (),
    tuned: Sequence[str] = (),
    made: str = "",
) -> Path:
    """Write the report of all runs in `runs_dir` to the folder `out`; returns the page's path.

    index.html    all of it on one page     cells.csv, comparisons.csv, variances.csv, runs.csv
    report.md     the same in Markdown                   the tables, and one line per run
    figures/      each picture as PNG and SVG

    Warns of contrasts that cannot be computed, with the reason.

    Args:
        runs_dir, out: folders.
        contrasts: declared in advance, see `comparisons.compare`.
        tuned: settings that the validation images choose, see `grid.arrange`.
        made: how and when this report is made, for the page.

    Raises:
        SettingError: if `runs_dir` has no run, `out` cannot be written, no table has a contrast,
            or matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        remedy = "the report's pictures need it: python -m pip install matplotlib"
        raise SettingError("matplotlib", "missing", remedy) from None
    from expanders.report import csv_files, grid, json_files, page, run_records
    from expanders.report.content import chapters_of, sections_of
    from expanders.report.contrasts import check_contrasts

    records, skipped = run_records.read_records(runs_dir)
    tables, copies = grid.arrange(records, tuned)
    check_contrasts(tables, contrasts)
    chapters = chapters_of(tables, contrasts)
    for chapter in chapters:
        for line in chapter.not_computed:
            log.warning("contrast not computed: %s: %s", chapter.title, line)
    sections = list(sections_of(chapters, records, [*skipped, *copies], runs_dir, out))
    title = f"Runs in {json_files.printable(str(runs_dir))}"
    compared = [line for c in chapters for line in csv_files.comparisons(c.table, c.comparisons)]
    variances = [line for c in chapters for line in csv_files.variances(c.table, c.splits)]
    files = page.pages(title, made, sections) | {
        "cells.csv": csv_files.to_csv(csv_files.cells(tables)),
        "comparisons.csv": csv_files.to_csv(compared),
        "variances.csv": csv_files.to_csv(variances),
        "runs.csv": csv_files.to_csv(csv_files.runs(records)),
    }
    content_of = {name: text.encode() for name, text in files.items()}
    for picture in (p for section in sections for block in section.blocks for p in block.pictures):
        content_of[f"figures/{picture.name}.svg"] = picture.svg
        content_of[f"figures/{picture.name}.png"] = picture.png
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        for name, content in content_of.items():
            (out / name).write_bytes(content)
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); --out FOLDER chooses another place"
        raise SettingError("out", out, reason) from None
    return out / "index.html"


if __name__ == "__main__":
    main()
