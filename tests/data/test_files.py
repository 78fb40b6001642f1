"""Downloads from a server on this machine, and files in folders and archives."""

import hashlib
import http.server
import os
import socket
import threading
import zipfile

import pytest

from expanders.data import files
from expanders.errors import SettingError

CONTENT = bytes(range(256)) * 4000
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """The address of a server with `/whole`, and `/cut`, which breaks off half-way."""
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in ("/whole", "/cut") else 404)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_download_makes_the_folder_and_the_file(tmp_path, server):
    files.download(tmp_path / "new" / "data", "file.bin", f"{server}/whole", MD5)
    assert [path.name for path in (tmp_path / "new" / "data").iterdir()] == ["file.bin"]
    assert (tmp_path / "new" / "data" / "file.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "md5", "reason"),
    [
        ("cut", MD5, "damaged"),
        ("whole", "0" * 32, "damaged"),
        ("missing", MD5, "404"),
    ],
)
def test_a_failed_download_leaves_nothing(tmp_path, server, page, md5, reason):
    with pytest.raises(SettingError, match=reason) as caught:
        files.download(tmp_path, "file.bin", f"{server}/{page}", md5)
    assert f"{server}/{page}" in str(caught.value)
    assert str(caught.value).startswith(f"dataset.root={tmp_path}: ")
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_does_not_hang(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(files, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        with pytest.raises(SettingError, match=r"cannot be downloaded .*timed out"):
            files.download(tmp_path, "file.bin", url, MD5)
    assert list(tmp_path.iterdir()) == []


def test_status_notices_every_change(tmp_path):
    def make(name, content):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    folder = files.FolderFiles(tmp_path, ("a/*", "b/*"))

    def state():
        return {name: folder.status(name) for name in folder.names()}

    make("a/1", b"x")
    make("a/.hidden", b"x")
    seen = [state()]
    make("unrelated", b"x")
    make("a/.hidden", b"xyz")
    assert state() == seen[0]
    for change in (
        lambda: make("b/1", b"x"),
        lambda: make("b/1", b"xy"),
        lambda: (tmp_path / "b/1").rename(tmp_path / "a/2"),
        lambda: (tmp_path / "a/1").symlink_to("nowhere") if (tmp_path / "a/1").unlink() else 0,
    ):
        change()
        assert state() not in seen
        seen.append(state())


def test_fingerprint_notices_sizes_and_times(tmp_path):
    (tmp_path / "1").write_bytes(b"x")
    seen = {files.fingerprint(tmp_path, ["1", "missing"])}
    (tmp_path / "1").write_bytes(b"xy")
    seen.add(files.fingerprint(tmp_path, ["1", "missing"]))
    os.utime(tmp_path / "1", (0, 0))
    seen.add(files.fingerprint(tmp_path, ["1", "missing"]))
    assert len(seen) == 3


def test_a_file_as_large_as_the_memory_is_not_read(tmp_path):
    with (tmp_path / "image").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "image", "top/image")
    assert (tmp_path / "bomb.zip").stat().st_size < 1e6
    folder = files.FolderFiles(tmp_path, ("image",))
    for source in (folder, files.ZipFiles(tmp_path / "bomb.zip", "top")):
        with pytest.raises(ValueError, match="268,435,457 bytes, more than 268,435,456"):
            source.read("image")
