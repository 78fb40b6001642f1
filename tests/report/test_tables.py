"""Runs arranged in tables, what the tables say, and how they look."""

import csv
from io import StringIO

import pytest

from expanders.files import read_sealed
from expanders.report import comparison_tables, comparisons, csv_files, page, tables
from expanders.report.contrasts import check_contrasts
from expanders.report.grid import arrange
from expanders.report.run_records import read_records
from expanders.runs.folders import run_digest, write_summary
from tests.report.run_folders import change, write_run


def arranged(root):
    return arrange(read_records(root)[0])


def only(root):
    (table,), _ = arranged(root)
    return table


def texts(table):
    """The accuracy table, without the kinds of its arms, as lists of first lines."""
    return [[entry.lines[0] for entry in row[1:]] for row in tables.accuracies(table, {}).rows]


@pytest.fixture
def grid(tmp_path):
    """Two graph models at two degrees, with one cell missing and one failed, and a dense twin."""
    for seed, (rreg, xnet) in enumerate([(0.90, 0.80), (0.92, 0.81), (0.94, 0.85)]):
        write_run(tmp_path, "rreg", 3, seed, rreg, live=150_000)
        write_run(tmp_path, "xnet", 3, seed, xnet)
        write_run(tmp_path, "dense", seed=seed, accuracy=0.95)
    write_run(tmp_path, "random", 15, 0, None, failure="out of | memory <b>")
    write_run(tmp_path, "rreg", 15, 0, 0.93)
    return tmp_path


def test_an_option_of_ones_own_for_the_dense_network_is_a_dense_twin(tmp_path):
    write_run(tmp_path, "rreg", accuracy=0.8)
    folder = write_run(tmp_path, "dense", accuracy=0.9)
    rename_graph(folder, "whole")
    table = only(tmp_path)
    assert texts(table) == [["rreg", "80.00"], ["dense twin", "90.00"]]
    for name in ("whole", "dense", "dense twin"):
        check_contrasts([table], [f"rreg:{name}"])
        (found,) = comparisons.compare(table, [f"rreg:{name}"])
        assert found.planned


def test_a_graph_of_ones_own_called_dense_is_a_graph_model(tmp_path):
    for graph_seed, accuracy in ((1, 0.7), (2, 0.9)):
        folder = write_run(tmp_path, "rreg", accuracy=accuracy, seeds={"graph": graph_seed})
        rename_graph(folder, "dense")
    write_run(tmp_path, "dense", accuracy=0.95)
    table, copies = arranged(tmp_path)
    assert copies == []
    assert texts(table[0]) == [["dense", "80.00 ± 14.14"], ["dense twin", "95.00"]]


def rename_graph(folder, option):
    """Call the option of a finished run's graph otherwise; its function stays."""
    config = read_sealed(folder / "config.json")
    config["choices"]["graph"] = config["definition"]["choices"]["graph"] = option
    change(folder / "config.json", **config)
    summary = read_sealed(folder / "summary.json")
    write_summary(folder, summary, run_digest(config))


def test_the_papers_layout(grid):
    table = only(grid)
    assert (table.title, table.differs, table.axis) == ("vgg16bn on digits", "", "degree")
    assert texts(table) == [
        ["rreg", "92.00 ± 2.00", "93.00"],
        ["xnet", "82.00 ± 2.65", "missing"],
        ["random", "missing", "failed (1)"],
        ["dense twin", "95.00 ± 0.00"],
    ]
    shown = tables.accuracies(table, {(table.arms[0], table.columns[0]): "runs-1-1"})
    assert [row[0].lines[0] for row in shown.rows] == ["graph models", "", "", "dense and thin"]
    rreg = shown.rows[0][2]
    assert rreg.lines[1:] == ("n = 3", "1 % of parameters")
    assert rreg.link == "#runs-1-1"
    assert rreg.best
    assert not shown.rows[1][2].best
    assert not shown.rows[0][3].best  # nothing to be better than
    assert shown.rows[2][3].lines[1] == "out of | memory <b>"
    assert shown.rows[3][2].span == 2


def test_single_pairs_show_their_differences_only(tmp_path):
    for graph, degree, accuracy in (("rreg", 3, 0.9), ("xnet", 3, 0.8), ("rreg", 15, 0.7)):
        write_run(tmp_path, graph, degree, 0, accuracy)
    write_run(tmp_path, "dense", seed=0, accuracy=0.95)
    shown = comparison_tables.single_pairs(comparisons.compare(only(tmp_path)))
    assert shown.header == ["difference, points", "degree 3", "degree 15"]
    assert [[entry.lines[0] for entry in row] for row in shown.rows] == [
        ["rreg − xnet", "+10.00", "–"],
        ["rreg − dense twin", "−5.00", "−25.00"],
        ["xnet − dense twin", "−15.00", "–"],
    ]


def test_networks_that_start_at_another_scale_have_the_same_dense_twin(tmp_path):
    for fan, accuracy in (("dense", 0.8), ("live", 0.9)):
        write_run(tmp_path, "rreg", 3, 0, accuracy, fan=fan)
    write_run(tmp_path, "dense", accuracy=0.95)
    assert texts(only(tmp_path)) == [
        ["rreg init.fan=dense", "80.00"],
        ["rreg init.fan=live", "90.00"],
        ["dense twin", "95.00"],
    ]


def test_cells_with_some_runs_say_what_they_lack(grid):
    write_run(grid, "xnet", 3, 7, None)
    write_run(grid, "xnet", 3, 8, None, failure="x")
    table = only(grid)
    shown = tables.accuracies(table, {}).rows
    assert shown[1][2].lines[1] == "n = 3, 1 failed, 1 unfinished"
    assert shown[0][2].lines[1] == "n = 3, 2 missing"
    assert table.missing(table.arms[-1], table.columns[0]) == 2


def test_unfinished_cells_say_how_far_they_came(tmp_path):
    write_run(tmp_path, "rreg", accuracy=None, epochs=6)
    (row, dense) = tables.accuracies(only(tmp_path), {}).rows
    assert row[2].lines == ("unfinished (1)", "epoch 3 of 6")
    assert dense[2].lines == ("missing",)


def test_models_are_the_columns_where_there_is_one_degree(tmp_path):
    for model in ("resnet101", "resnet18", "resnet50"):
        write_run(tmp_path, "rreg", model=model)
    write_run(tmp_path, "dense", model="resnet18")
    write_run(tmp_path, "dense", model="resnet152")
    table = only(tmp_path)
    assert (table.title, table.differs, table.axis) == ("resnet on digits, degree 3", "", "model")
    labels = [column.label for column in table.columns]
    assert labels == ["resnet18", "resnet50", "resnet101", "resnet152"]
    assert texts(table)[1] == ["dense twin", "90.00", "missing", "missing", "90.00"]
    assert texts(table)[0][4] == "missing"


def test_every_model_has_its_table_where_degrees_vary_too(tmp_path):
    for model in ("resnet18", "resnet50"):
        for degree in (3, 8):
            write_run(tmp_path, "rreg", degree, model=model)
        write_run(tmp_path, "dense", model=model)
    write_run(tmp_path, "dense", model="resnet34")
    found, _ = arranged(tmp_path)
    names = [(table.title, table.axis) for table in found]
    assert names == [
        ("resnet18 on digits", "degree"),
        ("resnet34 on digits", "model"),
        ("resnet50 on digits", "degree"),
    ]
    assert texts(found[1]) == [["dense twin", "90.00"]]


def test_runs_with_other_settings_never_share_a_cell(tmp_path):
    write_run(tmp_path, epochs=3)
    write_run(tmp_path, epochs=4)
    write_run(tmp_path, epochs=4, budget="paper")
    write_run(tmp_path, "dense", epochs=4)
    found, _ = arranged(tmp_path)
    assert [(table.differs, texts(table)[-1][1]) for table in found] == [
        ("epochs=3, degree.budget=equal", "missing"),
        ("epochs=4, degree.budget=equal", "90.00"),
        ("epochs=4, degree.budget=paper", "90.00"),
    ]


def test_other_numbers_of_a_degree_policy_than_its_value_tell_tables_apart(tmp_path):
    for floor, accuracy in ((1, 0.7), (20, 0.9)):
        path = write_run(tmp_path / f"{floor}", accuracy=accuracy) / "config.json"
        config = read_sealed(path)
        config["degree"]["floor"] = floor
        config["definition"]["degree"] = {"value": 3} | ({"floor": 20} if floor == 20 else {})
        change(path, **config)
        write_summary(path.parent, read_sealed(path.with_name("summary.json")), run_digest(config))
    found, copies = arranged(tmp_path)
    assert copies == []
    assert [(table.differs, texts(table)[0]) for table in found] == [
        ("degree.floor=1", ["rreg", "70.00"]),
        ("degree.floor=20", ["rreg", "90.00"]),
    ]
    assert {table.columns[0].label for table in found} == {"degree 3"}


def test_options_of_a_graph_model_are_rows_in_order_of_their_numbers(tmp_path):
    for p in (1.0, 0.1, 0.03):
        write_run(tmp_path, "rewired", options={"p": p, "shuffle": False})
    write_run(tmp_path, "random")
    assert [row[0] for row in texts(only(tmp_path))] == [
        "random", "rewired p=0.03", "rewired p=0.1", "rewired p=1", "dense twin",
    ]  # fmt: skip


def test_of_two_runs_with_the_same_seeds_the_finished_one_is_used(tmp_path):
    write_run(tmp_path / "a", accuracy=None)
    done = write_run(tmp_path / "b", accuracy=0.7)
    (table,), (copy,) = arranged(tmp_path)
    assert texts(table)[0][1] == "70.00"
    assert copy.path.parent.name == "a"
    assert str(done) in copy.reason


def test_comparisons_are_worded_by_what_they_show(grid):
    found = comparisons.compare(only(grid))
    assert [(c.column.label, c.name, c.says) for c in found] == [
        ("degree 3", "rreg − xnet", "rreg is better"),
        ("degree 3", "rreg − dense twin", "cannot be told apart"),
        ("degree 3", "xnet − dense twin", "dense twin is better"),
        ("degree 15", "rreg − dense twin", "one pair"),
    ]
    rows = [[entry.lines[0] for entry in row] for row in comparison_tables.comparisons(found).rows]
    # Differences 0.10, 0.11, 0.09: 10 ± 4.30 · 1 / √3 points
    assert rows[0][2:5] == ["+10.00", "+7.52 to +12.48", "3"]
    assert rows[1][3] == "−7.97 to +1.97"
    assert rows[3][2:6] == ["−2.00", "–", "1", "–"]
    assert comparisons.in_short(found).startswith("Of 3 exploratory comparisons, 2 have")


def test_what_holds_alone_but_not_among_many_is_a_hint(tmp_path):
    """0.5 ± 0.4 points each time, three times over: p = 0.03 alone, 0.09 corrected."""
    for degree in (3, 8, 15):
        for seed, gain in enumerate([0.003, 0.005, 0.007]):
            write_run(tmp_path, "rreg", degree, seed, 0.9 + gain)
            write_run(tmp_path, "xnet", degree, seed, 0.9)
    found = comparisons.compare(only(tmp_path))
    assert [each.verdict for each in found] == ["hint"] * 3
    assert {each.says for each in found} == {"a hint: rreg is better"}


def test_one_seed_concludes_nothing_and_no_shared_seed_compares_nothing(tmp_path):
    write_run(tmp_path, "rreg", seed=0)
    write_run(tmp_path, "xnet", seed=1)
    found = comparisons.compare(only(tmp_path))
    assert [each.says for each in found] == ["no pairs"]
    assert "nothing can be concluded" in comparisons.in_short(found)
    write_run(tmp_path, "xnet", seed=0)
    (one,) = comparisons.compare(only(tmp_path))
    assert one.says == "one pair"
    assert "nothing to compare" in comparisons.in_short([])


def test_equal_differences_give_no_interval_and_a_single_stream_is_named(tmp_path):
    for seed in range(3):
        write_run(tmp_path, "rreg", seed=0, accuracy=0.9, seeds={"graph": seed})
        write_run(tmp_path, "xnet", seed=0, accuracy=0.8, seeds={"graph": seed})
    (found,) = comparisons.compare(only(tmp_path))
    assert found.says == "all pairs differ equally"
    (row,) = comparison_tables.comparisons([found]).rows
    assert row[4].lines == ("3 (one init, one data)",)


def test_variance_is_split_where_the_seeds_allow(tmp_path):
    for graph in range(3):
        for init in range(3):
            accuracy = 0.8 + 0.02 * graph + 0.0001 * ((graph * init) % 2)
            write_run(tmp_path, accuracy=accuracy, seeds={"graph": graph, "init": init})
    write_run(tmp_path, "xnet")
    table = only(tmp_path)
    (found,) = comparisons.split(table)
    assert (found.arm.label, found.start) == ("rreg", "init")
    assert found.components.first == pytest.approx(4e-4, rel=0.01)
    assert found.says == "effect of graph"
    (row,) = comparison_tables.splits([found]).rows
    assert [entry.lines[0] for entry in row[:4]] == ["degree 3", "rreg", "3 × 3", "2.00 (100 %)"]
    (record,) = csv_files.variances(table, [found])
    assert record["variance_graph"] == found.components.first


def test_html_and_markdown_keep_what_would_be_their_own_characters(grid):
    section = page.Section("a <b> | c", [page.Block(table=tables.accuracies(only(grid), {}))])
    html, markdown = page.pages("title", "", [section]).values()
    assert "out of | memory &lt;b&gt;" in html
    assert '<td class="number"><strong>92.00 ± 2.00</strong>' in html
    assert 'colspan="2"' in html
    assert "## a \\<b\\> \\| c" in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert lines[0] == "|  | wiring | degree 3 | degree 15 |"
    assert lines[2].startswith("| graph models | rreg | **92.00 ± 2.00**<br>n = 3<br>1 %")
    assert r"out of \| memory \<b\>" in lines[4]
    assert lines[5].count(" |") == lines[0].count(" |")


def test_csv_has_every_cell(grid):
    table = only(grid)
    rows = list(csv.DictReader(StringIO(csv_files.to_csv(csv_files.cells([table])))))
    assert len(rows) == 2 * 4
    cells = {(row["wiring"], row["degree"]): row for row in rows}
    assert float(cells["rreg", "degree 3"]["accuracy_mean"]) == pytest.approx(0.92)
    assert cells["rreg", "degree 3"]["params/live"] == "150000.0"
    assert cells["xnet", "degree 15"]["status"] == "missing"
    assert cells["xnet", "degree 15"]["accuracy_mean"] == ""
    assert cells["random", "degree 15"]["status"] == "failed"
    assert csv_files.to_csv([]) == ""


def test_csv_cells_that_a_spreadsheet_would_compute_are_quoted():
    line = {
        "=1+1": "=2+5",
        "text": "-1",
        "at": "@SUM(A1)",
        "plus": "+",
        "number": -0.5,
        "none": None,
    }
    assert csv_files.to_csv([line]) == (
        "'=1+1,text,at,plus,number,none\n'=2+5,'-1,'@SUM(A1),'+,-0.5,\n"
    )


def test_runs_that_went_on_with_others_stand_apart_in_one_table_and_say_so(tmp_path):
    write_run(tmp_path / "whole")
    for seed in range(2):
        path = write_run(tmp_path / "more", seed=seed) / "config.json"
        definition = read_sealed(path)["definition"] | {"start_from": f"digest of seed {seed}"}
        change(path, start_from=f"runs/{seed}", definition=definition)
        summary = read_sealed(path.with_name("summary.json"))
        del summary["run"]
        summary["test_read_before"] = seed == 1
        write_summary(path.parent, summary, run_digest(read_sealed(path)))
    found, _ = arranged(tmp_path)
    assert [table.differs for table in found] == ["", "start_from=true"]
    links = {str(r.folder): ("", "") for r in read_records(tmp_path)[0]}
    states = [row[3].lines[0] for row in tables.runs(found[1], {}, links).rows]
    went_on = "finished; went on with another run"
    assert states == [went_on, f"{went_on}, whose test accuracy was known"]
