import subprocess
import sys

import numpy as np
import pytest

from expanders.seeds import derive, stream


def test_streams_are_told_apart_by_every_name_and_the_seed():
    seeds = [
        derive(0, "graph"),
        derive(1, "graph"),
        derive(0, "init"),
        derive(0, "graph", "a"),
        derive(0, "graph", "b"),
        derive(0, "order", 1),
        derive(0, "order", 2),
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_the_same_in_every_process():
    code = "from expanders.seeds import stream; print(stream(3, 'graph', 'x').integers(10**9))"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert int(printed) == stream(3, "graph", "x").integers(10**9)
    assert not np.array_equal(stream(3, "init").random(4), stream(4, "init").random(4))


def test_a_misspelt_stream_is_no_new_one():
    with pytest.raises(ValueError, match="no random stream is called 'grahp'"):
        stream(0, "grahp")


def test_streams_stay_what_they_are():
    assert derive(0, "graph", "features.0") == 3_682_011_686_877_737_130
