"""The tables of the report as CSV: accuracies and differences are fractions, as they are stored."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from statistics import fmean
from typing import Any

from expanders.report.cells import Table
from expanders.report.comparisons import Comparison, Split
from expanders.report.json_files import printable
from expanders.report.places import text
from expanders.report.run_records import RunRecord
from expanders.report.statistics import describe
from expanders.report.tables import status

Line = Mapping[str, Any]


def cells(tables: Iterable[Table]) -> list[Line]:
    """One line per cell of every table, cells without a finished run included.

    The last columns are the means of all that the summaries of the runs hold.
    """
    found: list[Line] = []
    for table in tables:
        for column in table.columns:
            for arm in table.arms:
                cell = table.cell(arm, column)
                values = list(cell.accuracies.values())
                sample = describe(values) if values else None
                names = dict.fromkeys(key for record in cell.finished for key in record.summary)
                found.append(
                    _place(table, column.label)
                    | {
                        "wiring": arm.label,
                        "kind": arm.kind,
                        "tuned": text(cell.tuned),
                        "status": status(cell),
                        "accuracy_mean": sample and sample.mean,
                        "accuracy_sd": sample and sample.sd,
                        "finished": len(values),
                        "failed": len(cell.having("failed")),
                        "unfinished": len(cell.having("unfinished")),
                        "missing": table.missing(arm, column),
                    }
                    | {
                        name: fmean(r.summary[name] for r in cell.finished if name in r.summary)
                        for name in names
                    }
                )
    return found


def comparisons(table: Table, found: Iterable[Comparison]) -> list[Line]:
    """One line per comparison of a table."""
    return [
        _place(table, each.column.label)
        | {
            "comparison": each.name,
            "planned": each.planned,
            "estimate": each.slope.value if each.slope else _of(each, "mean"),
            "low": each.slope.low if each.slope else _of(each, "low"),
            "high": each.slope.high if each.slope else _of(each, "high"),
            "n": each.slope.arms if each.slope else _of(each, "n"),
            "p": each.p,
            "p_holm": each.adjusted_p,
            "verdict": each.says,
        }
        for each in found
    ]


def variances(table: Table, found: Iterable[Split]) -> list[Line]:
    """One line per cell whose variance could be split."""
    return [
        _place(table, each.column.label)
        | {
            "wiring": each.arm.label,
            "graphs": each.components.rows,
            "starts": each.components.columns,
            "variance_graph": each.components.first,
            "variance_start": each.components.second,
            "variance_rest": each.components.rest,
            "p_graph": each.components.p_first,
            "p_start": each.components.p_second,
            "verdict": each.says,
        }
        for each in found
    ]


def runs(records: Iterable[RunRecord]) -> list[Line]:
    """One line per run: its choices, its seeds, its state and the numbers of its summary."""
    return [
        {
            "folder": printable(str(record.folder)),
            **record.choices,
            "degree_value": record.config.get("degree", {}).get("value"),
            **{f"seed_{name}": seed for name, seed in record.streams._asdict().items()},
            "state": record.state,
            "error": record.error,
            **record.summary,
        }
        for record in records
    ]


def to_csv(lines: Sequence[Line]) -> str:
    """Lines as CSV with a header, nothing at all for no lines; None is empty."""
    if not lines:
        return ""
    file = StringIO()
    fields = list(dict.fromkeys(key for line in lines for key in line))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_cell, fields))
    writer.writerows([_cell(line.get(key)) for key in fields] for line in lines)
    return file.getvalue()


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula gets an apostrophe; numbers stay numbers."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else value


def _of(comparison: Comparison, name: str) -> float | None:
    value: float | None = getattr(comparison.difference, name)
    return value


def _place(table: Table, column: str) -> dict[str, Any]:
    return {"table": table.title, "settings": table.differs, table.axis: column}
