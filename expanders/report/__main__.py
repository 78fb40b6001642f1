"""Write the report of a folder of runs.

python -m expanders.report runs
python -m expanders.report runs --out report
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from expanders.errors import SettingError


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; errors that a user can mend are one line."""
    parser = argparse.ArgumentParser(
        prog="python -m expanders.report", description="Write the report of a folder of runs."
    )
    parser.add_argument("runs_dir", metavar="RUNS_DIR", type=Path, help="a folder of run folders")
    parser.add_argument(
        "--out", type=Path, help="where to write (default: the folder `report` in RUNS_DIR)"
    )
    options = parser.parse_args(arguments)
    try:
        print(write(options.runs_dir, options.out or options.runs_dir / "report"))
    except SettingError as error:
        sys.exit(f"error: {error}")


def write(runs_dir: Path, out: Path) -> Path:
    """Write the report of all runs in `runs_dir` to the folder `out`; returns the page's path.

    index.html         all of it on one page     cells.csv, differences.csv, variances.csv,
    report.md          the same in Markdown      runs.csv        the tables, and one line per run
    figures/           each picture as PNG and SVG

    Raises:
        SettingError: if `runs_dir` has no run, `out` cannot be written, or matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        remedy = "the report's pictures need it: python -m pip install matplotlib"
        raise SettingError("matplotlib", "missing", remedy) from None
    from expanders.report import grid, page, read, records
    from expanders.report.content import chapters_of, sections_of

    runs, skipped = read.read_runs(runs_dir)
    tables, copies = grid.arrange(runs)
    chapters = chapters_of(tables)
    sections = list(sections_of(chapters, runs, [*skipped, *copies], runs_dir))
    title = f"Runs in {runs_dir}"
    differences = [r for c in chapters for r in records.differences(c.table, c.comparisons)]
    variances = [r for c in chapters for r in records.variances(c.table, c.splits)]
    files = {
        "cells.csv": records.to_csv(records.cells(tables)),
        "differences.csv": records.to_csv(differences),
        "variances.csv": records.to_csv(variances),
        "runs.csv": records.to_csv(records.runs(runs)),
        "report.md": page.to_markdown_page(title, sections),
        "index.html": page.to_html_page(title, sections),
    }
    content_of = {name: text.encode() for name, text in files.items()}
    for picture in (p for section in sections for part in section.parts for p in part.pictures):
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
