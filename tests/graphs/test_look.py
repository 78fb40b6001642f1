"""The command that shows graph models without training."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from expanders import graphs
from expanders.graphs.__main__ import main

ROOT = Path(__file__).parents[2]


def test_table_has_a_line_per_model_and_a_table_per_budget(capsys):
    models = ["rreg", "rewired:p=0.5,shuffle=true", "xnet:side=smaller"]
    main([*models, "--seeds", "2", "--shape", "12x24", "8x8", "--degree", "2", "3"])
    lines = capsys.readouterr().out.splitlines()
    budgets = [("12x24", 2, 48), ("12x24", 3, 72), ("8x8", 2, 16), ("8x8", 3, 24)]
    assert [line for line in lines if "edges" in line] == [
        f"{shape}, degree {degree}: {edges} edges, 2 seeds" for shape, degree, edges in budgets
    ]
    for model in models:
        assert sum(line.startswith(model) for line in lines) == 4


def test_all_models_by_default(capsys):
    main(["--seeds", "1", "--shape", "8x8"])
    blocks = next(line for line in capsys.readouterr().out.splitlines() if "blocks" in line)
    assert blocks.split()[4:-1] == ["0%", "0.000", "2.0", "12", "0.0"]


def test_the_first_table_of_the_docs_is_what_the_command_prints(capsys):
    page = (ROOT / "docs" / "graphs.md").read_text()
    table = page.partition("```text\n")[2].partition("\n\n")[0].splitlines()
    documented = [line.split() for line in table]
    models = [name for name, *_ in documented[2:]]
    assert {name.partition(":")[0] for name in models} == set(graphs.__all__)
    main(models)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert printed[:2] == documented[:2]
    for now, then in zip(printed[2:], documented[2:], strict=True):
        *values, _ = [float(text.rstrip("%")) for text in now[1:]]
        *expected, _ = [float(text.rstrip("%")) for text in then[1:]]
        assert values == pytest.approx(expected, rel=0.01, abs=0.002), now[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ramanujan"], "model=ramanujan: choose from blocks"),
        (["rreg:degree=3"], "rreg=degree=3: its options are select, draws"),
        (["dense:p=1"], "dense=p=1: its options are none"),
        (["rewired:p=2"], "p=2: give a number between 0 and 1"),
        (["--shape", "64"], "shape=64: give inputs x outputs"),
        (["--degree", "0.5"], "degree=0.5: give a number of at least 1"),
        (["--degree", "nan"], "degree=nan: give a number of at least 1"),
        (["--degree", "inf"], "degree=inf: give a number of at least 1"),
        (["--shape", "0x4"], "shape=0x4: give inputs x outputs"),
        (["--seeds", "0"], "seeds=0"),
        (["rreg", "--save", "."], "save=.: cannot write the picture: it is a folder"),
        (["nowhere.ring"], "model=nowhere.ring: cannot be imported: No module named 'nowhere'"),
        (["math.nothing"], "model=math.nothing: cannot be imported: module 'math'"),
        (["math.pi"], "model=math.pi: is a float, not a function"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


OWN_MODEL = """
from expanders.graphs.edges import ring as our_ring

def ring(num_left, num_right, num_edges, rng, step=1):
    edges = our_ring(num_left, num_right, num_edges)
    return edges if step == 1 else edges[:, ::-1]
"""


def test_a_model_of_ones_own_package(tmp_path):
    (tmp_path / "mypkg.py").write_text(OWN_MODEL)
    options = ["--seeds", "1", "--shape", "8x8"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*arguments):
        command = [sys.executable, "-m", "expanders.graphs", *arguments, *options]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    good = run("mypkg.ring", "mypkg.ring:step=1", "circulant").stdout.splitlines()
    own, with_option, ours = (line.split()[1:-1] for line in good[-3:])
    assert own == with_option == ours
    bad = run("mypkg.ring:step=2").stderr
    assert bad.count("\n") == 1
    assert "distinct edges, sorted by (right, left)" in bad


def test_a_shape_beyond_the_memory_ends_in_one_line(capsys, monkeypatch):
    def model(*_):
        raise MemoryError("Unable to allocate 298. GiB")

    monkeypatch.setattr(graphs, "random", model)
    with pytest.raises(SystemExit, match="2"):
        main(["random"])
    error = capsys.readouterr().err
    assert "does not fit into memory: Unable to allocate 298. GiB" in error
    assert error.count("\n") == 1


def test_a_reader_that_ends_early_is_no_error():
    command = f"{sys.executable} -m expanders.graphs circulant --seeds 1 --degree 2 3 | head -c 1"
    run = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert run.stderr == ""


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.delitem(sys.modules, "expanders.graphs.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="2"):
        main(["rreg", "--save", str(tmp_path / "look.png")])
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_picture_is_saved_or_the_reason_is_named(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "look.png"
    main(["rreg", "blocks", "--shape", "12x24", "--seeds", "1", "--save", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="2"):
        main(["rreg", "--save", str(tmp_path / "missing" / "look.png")])
    assert "cannot write the picture" in capsys.readouterr().err


def test_the_picture_shows_dead_channels_and_the_values_above_the_bound():
    pytest.importorskip("matplotlib")
    from matplotlib.colors import same_color

    from expanders.graphs.picture import BAD, Panel, figure

    blocks = graphs.blocks(12, 12, 36, np.random.default_rng(0))  # four complete blocks of 3 x 3
    empty = np.zeros((2, 0), dtype=np.int64)
    picture = figure([Panel("blocks", blocks, 14, 12), Panel("empty", empty, 3, 2)])
    matrix, no_matrix, spectrum, no_spectrum = picture.axes
    assert [bar.get_x() for bar in matrix.patches] == [12, 13]  # the inputs without edges
    assert len(no_matrix.patches) == 3 + 2
    points = spectrum.collections[0]
    np.testing.assert_allclose(points.get_offsets()[:, 1], [3] * 4 + [0] * 8, atol=1e-9)
    red = [same_color(color, BAD) for color in points.get_facecolors()]
    assert red == [False] + [True] * 3 + [False] * 8  # the first value of a graph is not counted
    assert any("4 components" in text.get_text() for text in spectrum.texts)
    assert not no_spectrum.collections
