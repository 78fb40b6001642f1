"""What README and docs say is there, and works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_readme_shows_the_two_commands_that_ci_runs():
    commands = (ROOT / ".ci" / "commands").read_text().splitlines()
    assert len(commands) == 2
    assert set(commands) <= set((ROOT / "README.md").read_text().splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text())
    targets = [link for link in links if "://" not in link]
    assert [link for link in targets if not (page.parent / link).exists()] == []
