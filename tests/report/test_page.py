"""The written report: its files, its pictures, and its page in a real browser."""

import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from expanders.errors import SettingError
from expanders.report.__main__ import main, write
from tests.report.run_folders import write_run

pytest.importorskip("matplotlib", reason="the report's pictures need matplotlib")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VIEWS = {"accuracy", "parameters", "gap", "bound", "effective", "validation", "loss", "layers"}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a grid with all that can be in one."""
    runs = tmp_path_factory.mktemp("runs")
    for seed in range(2):
        for degree in (3, 8):
            measures = {
                "graph/ramanujan_ratio_mean": 0.9 + 0.1 * seed,
                "graph/normalised_gap_mean": 0.1 + 0.01 * seed,
                "graph/effective_parameters": 128_000 + seed,
            }
            write_run(runs, "rreg", degree, seed, 0.9 + 0.01 * seed, measures=measures)
            write_run(runs, "xnet", degree, seed, 0.8 + 0.02 * seed, live=120_000)
        write_run(runs, "dense", seed=seed, accuracy=0.95)
    for graph in range(2):
        for init in range(2):
            seeds = {"graph": graph, "init": init}
            write_run(runs, "random", 3, 0, 0.7 + 0.01 * graph + 0.02 * init, seeds=seeds)
    write_run(runs, "random", 8, 5, None, failure="<script>alert('x')</script> & out of memory")
    write_run(runs, "random", 8, 6, None)
    write_run(runs, "rreg", 3, model="resnet18", dataset="cifar10")
    write_run(runs, "dense", model="resnet34", dataset="cifar10")
    (runs / "foreign").mkdir()
    (runs / "foreign" / "config.json").write_text("{}")
    page = write(runs, runs / "report")
    return page.parent


def test_a_dense_twin_that_was_not_asked_for_is_not_missing(tmp_path):
    write_run(tmp_path, "rreg")
    write_run(tmp_path, "xnet")
    page = write(tmp_path, tmp_path / "report")
    (row,) = re.findall(r"^\| vgg16bn on .*", (page.parent / "report.md").read_text(), re.MULTILINE)
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["2", "2", "0", "0", "0"]


def test_the_only_degree_of_a_table_is_said_and_so_is_what_a_dead_output_is(tmp_path):
    write_run(tmp_path, "rreg", 8)
    page = write(tmp_path, tmp_path / "report")
    markdown = (page.parent / "report.md").read_text()
    assert "All sparse networks of this table have degree 8." in markdown
    assert "output channels that no path from the network's input reaches" in markdown


def test_everything_is_written(report):
    names = {path.name for path in report.iterdir()}
    assert names == {
        "index.html", "report.md", "cells.csv", "comparisons.csv", "variances.csv", "runs.csv",
        "figures",
    }  # fmt: skip
    figures = {path.name for path in (report / "figures").iterdir()}
    for suffix in ("png", "svg"):
        assert {f"02-vgg16bn-on-digits-{view}.{suffix}" for view in VIEWS} <= figures
    markdown = (report / "report.md").read_text()
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", markdown):
        assert (report / picture).is_file()


def test_the_page_and_the_markdown_say_the_same(report):
    html, markdown = ((report / name).read_text() for name in ("index.html", "report.md"))
    for text in (html, markdown):
        for words in (
            "vgg16bn on digits", "Variance from graphs", "Runs that did not finish",
            "What was not used", "no choices of model", "epoch 1 of 3", "90.50 ± 0.71",
        ):  # fmt: skip
            assert words in text
    assert "alert(&#39;x&#39;)" in html
    assert r"\<script\>" in markdown


def test_the_page_refers_to_nothing_outside(report):
    html = (report / "index.html").read_text()
    links = re.findall(r"""(?:src|href)=["'](.*?)["']""", html)
    assert len(links) > len(VIEWS)
    folders = [link for link in links if not link.startswith(("data:", "#"))]
    assert folders
    assert all((report / unquote(link) / "config.json").is_file() for link in folders)
    anchors = {link for link in links if link.startswith("#")}
    assert all(f'id="{anchor[1:]}"' in html for anchor in anchors)
    assert "<script" not in html


def test_the_same_runs_give_the_same_bytes(tmp_path):
    write_run(tmp_path / "runs")
    first, second = (write(tmp_path / "runs", tmp_path / name) for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_a_report_is_written_while_nothing_has_finished(tmp_path):
    write_run(tmp_path, accuracy=None, epochs=1)
    page = write(tmp_path, tmp_path / "report").read_text()
    assert "unfinished (1)" in page
    assert write(tmp_path, tmp_path / "report").exists()  # its own folder is no run


def test_errors_are_one_line(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit, match=r"^error: RUNS_DIR=.*: there is no such folder$"):
        main([str(tmp_path / "absent")])
    write_run(tmp_path / "runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"^error: out=.*file: cannot be written .*--out FOLDER"):
        main([str(tmp_path / "runs"), "--out", str(tmp_path / "file")])
    main([str(tmp_path / "runs")])
    assert capsys.readouterr().out == f"{tmp_path / 'runs' / 'report' / 'index.html'}\n"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"^matplotlib=missing: .*pip install matplotlib$"):
        write(tmp_path / "runs", tmp_path / "out")


class Server(ThreadingHTTPServer):
    """Serves a folder and remembers what was asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_):
                server.asked.append(self.path)

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))


def browse(folder: Path, name: str, scratch: Path) -> tuple[list[str], list[str], Path]:
    """Open a page in Chromium: messages of its console, what it asked for, and a screenshot."""
    server = Server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    picture = scratch / "page.png"
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
        "--disable-dev-shm-usage", "--enable-logging=stderr", f"--user-data-dir={scratch}/profile",
        "--window-size=1100,9000", f"--screenshot={picture}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{server.server_port}/{name}"
    try:
        result = subprocess.run(
            [str(CHROMIUM), *options, url], capture_output=True, text=True, timeout=180, check=True
        )
    finally:
        server.shutdown()
        server.server_close()
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return console, server.asked, picture


def colours(picture: Path) -> set[tuple[int, ...]]:
    with Image.open(picture) as image:
        found = image.convert("RGB").getcolors(maxcolors=2**24)
    return {colour for _, colour in found}


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(report, tmp_path):
    console, asked, picture = browse(report, "index.html", tmp_path)
    assert console == []
    assert asked == ["/index.html"]
    # What only the pictures have: the first two colours of the graph models.
    assert colours(picture) >= {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)}


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_browser_would_tell(report, tmp_path):
    """A page that fetches is noticed, and the page's own policy forbids it."""
    html = (report / "index.html").read_text()
    fetching = html.replace("</body>", "<img src='/pixel.png'><script>1</script></body>")
    free = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", fetching)
    for name, page in (("forbidden.html", fetching), ("free.html", free)):
        (tmp_path / name).write_text(page)
    console, asked, _ = browse(tmp_path, "forbidden.html", tmp_path)
    assert len(console) == 2
    assert asked == ["/forbidden.html"]
    _, asked, _ = browse(tmp_path, "free.html", tmp_path)
    assert "/pixel.png" in asked
