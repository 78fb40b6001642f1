"""The layers of the package point one way."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "expanders"
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """Full names of what a file imports anywhere, functions included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_the_library_knows_nothing_of_hydra(path):
    assert not [name for name in imported(path) if name.split(".")[0] in ("hydra", "omegaconf")]


def test_no_imports_form_a_cycle():
    modules = {module_name(path) for path in FILES}

    def home(name: str) -> str | None:
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name or None

    edges = {
        module_name(path): {home(name) for name in imported(path)} - {None, module_name(path)}
        for path in FILES
        if path != PACKAGE / "__init__.py"  # imports nothing until it is asked
    }
    for name in edges:
        edges[name].discard("expanders")
    TopologicalSorter(edges).prepare()


def room(name: str) -> str:
    return name.split(".")[1] if name.startswith("expanders.") else ""


def test_rooms_import_what_their_page_says():
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text()
    says = {}
    for line in page.splitlines():
        if line.startswith("| `expanders/"):
            name, _, imports = [cell.strip() for cell in line.strip("|").split("|")][:3]
            key = name.strip("`/").removeprefix("expanders/").removesuffix(".py")
            says[key] = set(re.findall(r"`(\w+)`", imports))
    does = {name: set() for name in says}
    common = {"errors", "seeds", "files"}
    for path in FILES:
        own = room(module_name(path))
        if own and own not in common:
            does[own] |= {room(name) for name in imported(path)} - {own, ""} - common
    assert does == says


@pytest.mark.parametrize(
    "statement",
    [
        "import expanders",
        "import expanders.graphs, expanders.wiring.degrees, expanders.graphs.spectra",
        "from expanders import graphs, degrees, spectra",
        "import launch",
    ],
)
def test_graphs_and_the_command_line_do_without_pytorch(statement):
    code = f"{statement}; import sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_everything_announced_is_there():
    import expanders

    for name in expanders.__all__:
        assert getattr(expanders, name) is not None
    assert callable(expanders.sparsify)
    assert set(expanders.__all__) <= set(dir(expanders))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = expanders.nonsense
