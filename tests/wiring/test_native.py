"""Where the library of operators is kept, and what a machine without such a place is told."""

import logging
import pwd
from pathlib import Path

import pytest

from expanders.wiring import native


@pytest.fixture
def homeless(monkeypatch):
    """A user of whom neither the environment nor the system knows a home folder."""

    def unknown(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setenv("CXX", "true")  # takes any arguments, and makes nothing


def test_without_a_home_there_are_no_operators_and_one_warning_says_so(
    homeless, monkeypatch, caplog
):
    monkeypatch.setattr(native, "_outcome", [])
    caplog.set_level(logging.WARNING, native.__name__)
    assert [native.is_available() for _ in range(2)] == [False, False]
    (warning,) = caplog.messages
    assert warning.startswith("sparse layers compute densely")
    assert "home directory" in warning


def test_a_chosen_folder_needs_no_home(homeless, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(native, "_run", lambda command: Path(command[-1]).touch())
    library = native.library()
    assert [*tmp_path.rglob("*.so")] == [library]
