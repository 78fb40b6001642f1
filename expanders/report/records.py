"""The tables of the report as CSV: accuracies and differences are fractions, as they are stored."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from expanders.report.conclusions import Comparison, Split
from expanders.report.grid import Table
from expanders.report.read import DENSE, Run
from expanders.report.statistics import describe
from expanders.report.tables import parameters, status

Record = Mapping[str, Any]


def cells(tables: Iterable[Table]) -> list[Record]:
    """One record per cell of every table, cells without a finished run included."""
    found: list[Record] = []
    for table in tables:
        for column in table.columns:
            for row in (*table.rows, DENSE):
                cell = table.cell(row, column)
                values = list(cell.accuracies.values())
                sample = describe(values) if values else None
                live, density = parameters(cell) or (None, None)
                found.append(
                    _place(table, column.label)
                    | {
                        "graph": row,
                        "status": status(cell),
                        "accuracy_mean": sample and sample.mean,
                        "accuracy_sd": sample and sample.sd,
                        "finished": len(values),
                        "failed": len(cell.having("failed")),
                        "unfinished": len(cell.having("unfinished")),
                        "missing": table.missing(row, column),
                        "live_parameters": live,
                        "density": density,
                    }
                )
    return found


def differences(table: Table, found: Iterable[Comparison]) -> list[Record]:
    """One record per comparison of a table."""
    return [
        _place(table, each.column.label)
        | {
            "first": each.first,
            "second": each.second,
            "mean": each.difference.mean,
            "low": each.difference.low,
            "high": each.difference.high,
            "pairs": each.difference.n,
            "p": each.difference.p,
            "p_holm": each.adjusted_p,
            "conclusion": each.conclusion,
        }
        for each in found
    ]


def variances(table: Table, found: Iterable[Split]) -> list[Record]:
    """One record per cell whose variance could be split."""
    return [
        _place(table, each.column.label)
        | {
            "graph": each.row,
            "graphs": each.components.rows,
            "starts": each.components.columns,
            "variance_graph": each.components.first,
            "variance_start": each.components.second,
            "variance_rest": each.components.rest,
            "p_graph": each.components.p_first,
            "p_start": each.components.p_second,
            "conclusion": each.conclusion,
        }
        for each in found
    ]


def runs(found: Iterable[Run]) -> list[Record]:
    """One record per run: its choices, its seeds, its state and the numbers of its summary."""
    return [
        {
            "folder": str(run.folder),
            **run.choices,
            "degree_value": (run.config.get("degree") or {}).get("value"),
            **{f"seed_{name}": seed for name, seed in run.streams._asdict().items()},
            "state": run.state,
            "error": run.error,
            **run.summary,
        }
        for run in found
    ]


def to_csv(records: Sequence[Record]) -> str:
    """Records as CSV with a header, nothing at all for no records; None is empty."""
    file = StringIO()
    if not records:
        return ""
    fields = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


def _place(table: Table, column: str) -> dict[str, Any]:
    return {"table": table.title, "settings": table.settings, table.axis: column}
