import subprocess
import sys

from tests.conftest import ROOT


def test_memory_is_known_of_the_first_run_of_a_process_only():
    code = """
import torch
from expanders.training.memory import PeakMemory
first = PeakMemory(torch.device("cpu"))
before = first.bytes()
block = torch.ones(25_000_000)  # 100 MB
after = first.bytes()
assert 90e6 < after - before < 150e6, (before, after)
assert PeakMemory(torch.device("cpu")).bytes() is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
