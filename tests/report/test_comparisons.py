"""Arms of all kinds: contrasts declared in advance, dials, tuned settings, scored wirings, thin."""

import pytest

from expanders.files import read_sealed
from expanders.report import comparison_tables, comparisons, content, tables
from expanders.report.__main__ import main
from expanders.report.contrasts import not_computed
from expanders.report.grid import arrange
from expanders.report.run_records import read_records
from expanders.runs.folders import run_digest, write_summary
from tests.report.run_folders import change, write_run

GAP = "graph/normalised_gap_mean"
RATIO = "graph/ramanujan_ratio_mean"
SEEDS = range(3)


def only(root, tuned=()):
    (table,), _ = arrange(read_records(root)[0], tuned)
    return table


def said(root, contrasts=()):
    return {each.name: each for each in comparisons.compare(only(root), contrasts)}


@pytest.fixture
def three(tmp_path):
    """0.5 ± 0.4 points between each two of three graph models: p = 0.03 alone, 0.09 of three."""
    for seed, gain in enumerate([0.003, 0.005, 0.007]):
        for times, graph in enumerate(("random", "xnet", "rreg")):
            write_run(tmp_path, graph, 3, seed, 0.8 + times * gain)
    return tmp_path


def test_a_contrast_declared_in_advance_is_not_corrected_and_the_others_only_among_themselves(
    three,
):
    found = said(three)
    assert {each.verdict for each in found.values()} == {"hint"}
    assert found["rreg − xnet"].adjusted_p == pytest.approx(3 * found["rreg − xnet"].p)
    found = said(three, ["xnet:rreg"])
    contrast, other = found["xnet − rreg"], found["xnet − random"]
    assert (contrast.planned, contrast.adjusted_p, contrast.verdict) == (True, None, "holds")
    assert contrast.says == "rreg is better"
    assert contrast.difference.mean == pytest.approx(-0.005)
    assert other.adjusted_p == pytest.approx(2 * other.p)
    short = comparisons.in_short(list(found.values()))
    assert short.startswith("1 of 1 contrasts declared in advance hold: rreg is better.")
    assert "Of 2 exploratory comparisons" in short


def test_a_graph_model_means_all_of_its_arms_unless_one_is_called_so(three):
    def planned(contrast):
        return {name for name, each in said(three, [contrast]).items() if each.planned}

    for seed in range(3):
        for p in (0, 0.3):
            write_run(three, "rewired", 3, seed, 0.8 + p / 10 + seed / 100, options={"p": p})
    assert planned("rreg:rewired") == {"rreg − rewired p=0", "rreg − rewired p=0.3"}
    for seed in range(3):
        write_run(three, "rewired", 3, seed, 0.8 + seed / 90)
    assert planned("rreg:rewired") == {"rreg − rewired"}


def test_declared_contrasts_have_a_table_of_their_own(three, tmp_path):
    main([str(three), "--out", str(tmp_path / "out"), "--contrast", "rreg:xnet"])
    text = (tmp_path / "out" / "report.md").read_text()
    planned = text.split("### Contrasts declared in advance")[1].split("###")[0]
    assert "rreg − xnet" in planned
    assert "rreg − random" not in planned
    assert "Written by “python -m expanders.report" in text
    assert "--contrast rreg:xnet" in text


@pytest.mark.parametrize("contrast", ["rreg:lift", "rreg", "rreg-xnet", ""])
def test_a_contrast_that_no_table_has_is_one_line(three, contrast):
    with pytest.raises(SystemExit, match=r"^error: contrast=.*is in no table; the arms are .*rreg"):
        main([str(three), "--contrast", contrast])


def test_an_arm_is_not_compared_with_itself(three):
    with pytest.raises(
        SystemExit, match=r"^error: contrast=rreg:rreg: an arm is not compared with"
    ):
        main([str(three), "--contrast", "rreg:rreg"])
    write_run(three, "rreg", fan="live")  # two arms of this name
    with pytest.raises(
        SystemExit, match=r"^error: contrast=rreg:rreg: an arm is not compared with"
    ):
        main([str(three), "--contrast", "rreg:rreg"])


def test_a_declared_contrast_that_cannot_be_computed_says_why(tmp_path, caplog):
    pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")
    for seed in range(2):
        write_run(tmp_path, "rreg", 3, seed, 0.8 + 0.01 * seed)
        write_run(tmp_path, "random", 3, seed, 0.7)
    write_run(tmp_path, "xnet", 3, 0, None, failure="diverged")
    write_run(tmp_path, "lift", 8)
    for p in (0, 0.1, 0.3):
        accuracy = 0.6 if p else None
        write_run(tmp_path, "rewired", 3, 0, accuracy, options={"p": p}, measures={GAP: p})
    declared = ["rreg:xnet", "lift:rreg", "rewired", "rreg:random"]
    contrasts = [word for each in declared for word in ("--contrast", each)]
    main([str(tmp_path), "--out", str(tmp_path / "out"), *contrasts])
    markdown = (tmp_path / "out" / "report.md").read_text()
    planned = markdown.split("### Contrasts declared in advance")[1].split("###")[0]
    expected = [
        "rreg − xnet at degree 3: xnet has no finished run (1 failed)",
        "lift − rreg at degree 3: lift has no finished run (none was begun)",
        "lift − rreg at degree 8: rreg has no finished run (none was begun)",
        "rewired, along the normalised gap at degree 3: needs three arms with a finished run and "
        "mostly connected graphs, has 2",
    ]
    assert [line for line in planned.splitlines() if line.startswith("Not computed")] == [
        f"Not computed: {each}." for each in expected
    ]
    assert "rreg − random" in planned
    html = (tmp_path / "out" / "index.html").read_text()
    assert all(f"<p>Not computed: {each}.</p>" in html for each in expected)
    assert [record.message for record in caplog.records if "contrast" in record.message] == [
        f"contrast not computed: vgg16bn on digits: {each}" for each in expected
    ]


def test_a_dial_whose_arms_have_one_gap_has_no_slope_and_says_so(tmp_path):
    for p in (0.1, 0.3, 1):
        write_run(tmp_path, "rewired", options={"p": p})
    table = only(tmp_path)
    found = comparisons.compare(table, ["rewired"])
    assert not_computed(table, found, ["rewired"]) == [
        "rewired, along the normalised gap at degree 3: all its arms have the same normalised gap"
    ]


def dial(root, seeds=SEEDS):
    """Accuracy rises by one point for every 0.1 of the gap; blocks (p = 0) are disconnected."""
    for p, gap in ((0, 0.0), (0.1, 0.1), (0.3, 0.2), (0.6, 0.3), (1, 0.4)):
        for seed in seeds:
            accuracy = 0.6 + 0.1 * gap + 0.0002 * ((7 * seed + int(10 * p)) % 5)
            measures = {GAP: gap, RATIO: 1.1 - gap}
            measures["graph/disconnected_layers"] = 2 if p == 0 else 0
            options = {"p": p} if p else {}  # p = 0 as if it were the default
            folder = write_run(
                root, "rewired", 3, seed, accuracy if p else 0.7, options=options, measures=measures
            )
            if not p:  # only the whole configuration has a default
                graph = read_sealed(folder / "config.json")["graph"]
                change(folder / "config.json", graph=graph | {"p": 0})


def test_the_slope_along_a_dial_is_that_of_its_arms_and_leaves_out_disconnected_graphs(tmp_path):
    dial(tmp_path)
    table = only(tmp_path)
    assert [arm.label for arm in table.sparse] == [
        f"rewired p={p}" for p in ("0", "0.1", "0.3", "0.6", "1")
    ]
    found = said(tmp_path, ["rewired"])
    line = found["rewired, along the normalised gap"]
    assert (line.planned, line.verdict, line.says) == (True, "holds", "accuracy rises")
    assert line.slope.arms == 4
    assert line.slope.value == pytest.approx(0.1, rel=0.1)
    (row,) = comparison_tables.comparisons([line]).rows
    assert row[2].lines[0].endswith("per 0.1")
    assert row[4].lines == ("4 arms",)
    every = found["rewired, along the normalised gap, with disconnected arms"]
    assert (every.planned, every.slope.arms) == (False, 5)
    # It tells of disconnected graphs as little as the gap does.
    assert found["rewired, along the σ2 / bound"].slope.arms == 4
    # The number of seeds is no number of independent points.
    dial(tmp_path / "more", range(3, 30))
    more = said(tmp_path / "more")["rewired, along the normalised gap"]
    assert more.slope.arms == 4


def test_a_dial_needs_three_arms_that_differ_in_one_number(tmp_path):
    for options in ({"p": 0.1}, {"p": 0.2}):
        write_run(tmp_path, "rewired", options=options)
    assert comparisons.dials(only(tmp_path)) == []
    for p in (0.1, 0.2, 0.3):
        write_run(tmp_path, "rewired", options={"p": p, "base": "circulant"})
    (dial,) = comparisons.dials(only(tmp_path))
    assert [arm.label for arm in dial.arms] == [
        f"rewired base=circulant, p={p}" for p in (0.1, 0.2, 0.3)
    ]


def test_kinds_come_from_what_a_wiring_looks_at(tmp_path):
    write_run(tmp_path, "blocks")
    write_run(tmp_path, "snip", streams=("init", "data"), options={"images": 100})
    write_run(tmp_path, "magnitude", streams=("init",))
    write_run(tmp_path, "rreg")
    write_run(tmp_path, "thin", streams=())
    write_run(tmp_path, "dense", accuracy=0.95)
    table = only(tmp_path)
    assert [(arm.label, arm.kind, arm.needs) for arm in table.arms] == [
        ("rreg", "graph models", ()),
        ("magnitude", "scored wirings", ("weights",)),
        ("snip", "scored wirings", ("weights", "100 images")),
        ("blocks", "controls", ()),
        ("thin", "dense and thin", ()),
        ("dense twin", "dense and thin", ()),
    ]
    shown = tables.side_by_side(table, {})
    assert [row[2].lines[0] for row in shown.rows][1:3] == ["weights", "weights, 100 images"]


def test_graph_seeds_that_no_edge_depends_on_make_copies_not_repetitions(tmp_path):
    for graph in range(2):
        for init in range(2):
            seeds = {"graph": graph, "init": init}
            write_run(tmp_path, "magnitude", seeds=seeds, streams=("init",))
            write_run(tmp_path, "rreg", seeds=seeds, accuracy=0.8 + 0.01 * graph * init)
    tables_, copies = arrange(read_records(tmp_path)[0])
    rreg, magnitude, _ = tables_[0].arms
    column = tables_[0].columns[0]
    assert len(tables_[0].cell(magnitude, column).finished) == 2
    assert len(copies) == 2
    assert all("repeats" in copy.reason for copy in copies)
    assert [each.arm for each in comparisons.split(tables_[0])] == [rreg]
    # Every graph of an init is paired with the one run that it has.
    (found,) = comparisons.compare(tables_[0])
    assert found.difference.mean == pytest.approx(0.8025 - 0.9)


def test_the_checks_of_scored_wirings_stand_beside_what_they_check(tmp_path):
    write_run(tmp_path, "rreg")
    for options in ({}, {"placement": "random"}):
        write_run(tmp_path, "snip", streams=("init", "data"), options=options)
    write_run(tmp_path, "snip", streams=("init", "data"), redraw=True)
    write_run(tmp_path, "thin", streams=())
    write_run(tmp_path, "dense")
    assert [arm.label for arm in only(tmp_path).arms] == [
        "rreg",
        "snip",
        "snip placement=random",
        "snip init.redraw=true",
        "thin",
        "dense twin",
    ]


def test_a_run_that_has_not_wired_yet_belongs_to_the_arm_of_its_namesakes(tmp_path):
    write_run(tmp_path, "magnitude", streams=("init",))
    folder = write_run(tmp_path, "magnitude", seed=1, accuracy=None, streams=("init",))
    (folder / "graph.json").unlink()
    table = only(tmp_path)
    (arm, _) = table.arms
    assert (arm.kind, len(table.cell(arm, table.columns[0]).runs)) == ("scored wirings", 2)
    assert table.missing(arm, table.columns[0]) == 0


def test_thin_networks_of_all_degrees_stand_in_the_table_of_the_others(tmp_path):
    for degree in (3, 15):
        for graph in ("rreg", "thin"):
            write_run(tmp_path, graph, degree, fan="live" if graph == "rreg" else "dense")
    (table,), _ = arrange(read_records(tmp_path)[0])
    assert [arm.label for arm in table.sparse] == ["rreg", "thin"]
    shown = tables.side_by_side(table, {}).rows
    share = tables.side_by_side(table, {}).header.index("% of dense")
    assert [row[share].lines for row in shown] == [("0.867",), ("–",)] * 2


def test_thin_that_wins_is_said(tmp_path):
    for seed in SEEDS:
        write_run(tmp_path, "rreg", 3, seed, 0.8)
        write_run(tmp_path, "xnet", 3, seed, 0.7)
        write_run(tmp_path, "thin", 3, seed, 0.85, streams=())
        write_run(tmp_path, "dense", seed=seed, accuracy=0.95)
    table = only(tmp_path)
    chapter = content.chapters_of([table])[0]
    said = " ".join(next(iter(content._blocks(chapter, []))).paragraphs)
    assert "At degree 3 the thin dense network wins: 85.00 %" in said
    assert "against 80.00 % of rreg" in said
    write_run(tmp_path, "lift", 3, 0, 0.9)
    chapter = content.chapters_of([only(tmp_path)])[0]
    assert "wins" not in " ".join(next(iter(content._blocks(chapter, []))).paragraphs)


def test_validation_images_choose_a_tuned_setting_in_each_cell(tmp_path):
    """The test accuracies would choose otherwise."""
    chosen = {"rreg": 0.1, "xnet": 0.05}
    for graph, best in chosen.items():
        for lr in (0.05, 0.1):
            for seed in SEEDS:
                val = 0.9 if lr == best else 0.8
                accuracy = 0.7 if lr == best else 0.75
                write_run(tmp_path, graph, 3, seed, accuracy, lr=lr, val=val)
    found, _ = arrange(read_records(tmp_path)[0])
    assert [table.differs for table in found] == ["optimizer.lr=0.05", "optimizer.lr=0.1"]
    table = only(tmp_path, ["optimizer.lr"])
    shown = tables.accuracies(table, {}).rows
    assert [row[2].lines for row in shown[:2]] == [
        ("70.00 ± 0.00", "n = 3", "lr=0.1", "0.867 % of parameters"),
        ("70.00 ± 0.00", "n = 3", "lr=0.05", "0.867 % of parameters"),
    ]
    links = {str(r.folder): ("run", "run/") for r in read_records(tmp_path)[0]}
    states = [row[3].lines[0] for row in tables.runs(table, {}, links).rows]
    assert states.count("finished") == 6
    assert states.count("finished; not chosen") == 6
    tried = tables.tuning(table)
    assert tried.header == ["", "wiring", "optimizer.lr=0.05", "optimizer.lr=0.1"]
    values = [[(entry.lines[0], entry.best) for entry in row[2:]] for row in tried.rows]
    assert values == [[("80.00", False), ("90.00", True)], [("90.00", True), ("80.00", False)]]
    assert tables.tuning(found[0]) is None


def tried(root, lr, validations):
    """Runs of seeds 0, 1, ... at a learning rate; None stands for a run that failed."""
    for seed, val in enumerate(validations):
        accuracy, failure = (0.8, None) if val is not None else (None, "diverged")
        write_run(root, "rreg", 3, seed, accuracy, lr=lr, val=val, failure=failure)


def chosen(root):
    table = only(root, ["optimizer.lr"])
    return dict(table.cell(table.arms[0], table.columns[0]).tuned)["optimizer.lr"]


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        ([0.9] * 5, [0.905, None, None, None, None], "first"),  # the rest of the second diverged
        ([0.9] * 4 + [None], [0.905, None, None, None, None], "first"),
        ([0.9, 0.8, 0.8], [0.89, 0.79, 0.79, 0.99, 0.99], "first"),  # on the seeds of both
        ([0.9, 0.8, 0.8], [0.91, 0.81, 0.81, 0.1, 0.1], "second"),
        ([0.9, None], [0.1, 0.1], "second"),
        ([None, None], [0.1, None], "second"),
    ],
)
def test_a_tuned_value_does_not_win_by_the_seeds_that_it_lost_or_has_not_run(
    tmp_path, first, second, better
):
    tried(tmp_path, 0.1, first)
    tried(tmp_path, 1.0, second)
    assert chosen(tmp_path) == {"first": 0.1, "second": 1.0}[better]


def test_a_tuned_value_that_failed_does_not_thin_out_the_seeds_of_the_others(tmp_path):
    tried(tmp_path, 0.01, [0.9, 0.8, 0.8])
    tried(tmp_path, 0.02, [0.8, 0.9, 0.9])
    tried(tmp_path, 1.0, [0.99, None, None])
    assert chosen(tmp_path) == 0.02
    table = only(tmp_path, ["optimizer.lr"])
    (row,) = tables.tuning(table).rows
    assert [entry.lines for entry in row[2:]] == [("83.33",), ("86.67",), ("99.00", "2 failed")]


def test_tuned_values_without_common_seeds_are_compared_over_all(tmp_path):
    tried(tmp_path, 0.1, [0.9])
    write_run(tmp_path, "rreg", 3, 7, 0.8, lr=1.0, val=0.95)
    assert chosen(tmp_path) == 1.0


def test_a_validation_accuracy_of_zero_is_one(tmp_path):
    tried(tmp_path, 0.1, [0.0])
    tried(tmp_path, 1.0, [0.9, 0.9])
    for record in read_records(tmp_path)[0]:
        if record.config["optimizer"]["lr"] == 1.0:  # of a version that wrote none
            summary = read_sealed(record.folder / "summary.json")
            del summary["val/accuracy"]
            write_summary(record.folder, summary, run_digest(record.config))
    assert chosen(tmp_path) == 0.1


@pytest.mark.parametrize(
    "key", ["optimizer.lrr", "recipe.lr", "choices.graph", "definition.epochs"]
)
def test_a_tuned_setting_that_no_run_has_is_one_line(three, key):
    with pytest.raises(SystemExit, match=rf"^error: tuned={key}: .*no run"):
        main([str(three), "--tuned", key])


@pytest.mark.parametrize("key", ["seed", "seeds.graph"])
def test_seeds_are_never_tuned(three, key):
    with pytest.raises(SystemExit, match=rf"^error: tuned={key}: seeds are never tuned"):
        main([str(three), "--tuned", key])


def test_curves_that_are_equal_can_both_be_seen(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    from io import BytesIO

    from PIL import Image

    from expanders.report import figures, panels

    for graph in ("rreg", "xnet", "random"):
        write_run(tmp_path, graph, epochs=12)
    table = only(tmp_path)
    style = panels.styles([arm.label for arm in table.sparse], "dense twin")
    histories = {str(r.folder): r.history() for r in read_records(tmp_path)[0]}
    with matplotlib.rc_context(panels.RC):
        figure = figures.training(table, style, histories, *figures._CURVES["validation"])
        file = BytesIO()
        figure.savefig(file, format="png", dpi=200)
    with Image.open(file) as image:
        pixels = image.convert("RGB").getcolors(2**24)
    count = {colour: n for n, colour in pixels}
    for arm in table.sparse:
        colour = tuple(int(style[arm.label]["color"][i : i + 2], 16) for i in (1, 3, 5))
        assert count.get(colour, 0) > 500
