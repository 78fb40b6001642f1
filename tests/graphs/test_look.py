"""The command that shows graph models without training."""

import sys

import pytest

from expanders.graphs.__main__ import main


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
    assert blocks.split()[4:] == ["0.000", "0.000", "0.000", "0%", "2.0", "0.0", blocks.split()[-1]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ramanujan"], "model=ramanujan: choose from blocks"),
        (["rreg:degree=3"], "rreg=degree=3: its options are select, draws"),
        (["dense:p=1"], "dense=p=1: its options are none"),
        (["rewired:p=2"], "p=2: give a share between 0 and 1"),
        (["--shape", "64"], "shape=64: give inputs x outputs"),
        (["--degree", "0.5"], "degree.value=0.5: give a number of at least 1"),
        (["--seeds", "0"], "seeds=0"),
    ],
)
def test_wrong_arguments_end_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_picture_without_matplotlib_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit, match="2"):
        main(["rreg", "--save", str(tmp_path / "look.png")])
    assert "pip install matplotlib" in capsys.readouterr().err


def test_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "look.png"
    main(["rreg", "blocks", "--shape", "12x24", "--seeds", "1", "--save", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="2"):
        main(["rreg", "--save", str(tmp_path / "missing" / "look.png")])
    assert "cannot write the picture" in capsys.readouterr().err
