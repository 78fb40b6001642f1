"""Downloads from a server on this machine, decoding, and the cache."""

import hashlib
import http.server
import io
import logging
import socket
import struct
import threading
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from expanders.data import Images, files
from expanders.data.cache import cached
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


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(channels):
    """A PNG of 8 x 8 pixels with 16 bits per channel, which Pillow cannot write."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 8, 8, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(8 * channels * 2)) * 8)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def decoded(tmp_path, content, size):
    (tmp_path / "image").write_bytes(content)
    folder = files.FolderFiles(tmp_path, ("image",))
    return files.decode(folder, ["image"], size, tmp_path)[0]


def test_decoding_keeps_pixels_of_the_right_size(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8)
    out = decoded(tmp_path, encoded(Image.fromarray(pixels), "PNG"), 16)
    assert np.array_equal(out.numpy(), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    out = decoded(tmp_path, encoded(Image.new("RGB", (8, 8), "white").convert(mode), "PNG"), 8)
    assert out.shape == (3, 8, 8)
    assert out.eq(255).all()


def test_resizing_takes_the_centre_square_and_averages(tmp_path):
    pixels = np.zeros((32, 96, 3), dtype=np.uint8)
    pixels[:, 32:64] = 200  # the centre square ...
    pixels[::2, 32:64] = 100  # ... with fine stripes
    out = decoded(tmp_path, encoded(Image.fromarray(pixels), "PNG"), 8)
    assert (out[:, 1:-1, 1:-1].int() - 150).abs().max() <= 3
    assert out.min() > 130  # no black from beside the square


def test_the_orientation_tag_is_obeyed(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.paste((255, 0, 0), (0, 0, 8, 4))  # red above
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    out = decoded(tmp_path, encoded(image, "PNG", exif=exif), 8)
    assert (out[0, :4].max(), out[0, 4:].min()) == (0, 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot identify"),
        (b"not an image", "cannot identify"),
        (encoded(Image.effect_noise((64, 64), 90), "JPEG")[:-900], "truncated"),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:-900], "truncated|broken"),
        (encoded(Image.new("I;16", (8, 8)), "PNG"), "more than 8 bits"),
        (deep_png(channels=3), "more than 8 bits"),  # these three are read as 8 bits by Pillow
        (deep_png(channels=4), "more than 8 bits"),
        (b"P6 8 8 1023\n" + bytes(8 * 8 * 6), "more than 8 bits"),
        (encoded(Image.new("RGB", (8, 8)), "EPS"), "cannot identify"),  # not handed to Ghostscript
    ],
)
def test_a_broken_image_is_named(tmp_path, content, reason):
    with pytest.raises(SettingError, match=reason) as caught:
        decoded(tmp_path, content, 8)
    assert f"{tmp_path / 'image'} is not a readable image" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fingerprint_notices_every_change(tmp_path):
    def make(name, content):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    make("a/1", b"x")
    make("a/.hidden", b"x")
    folder = files.FolderFiles(tmp_path, ("a/*", "b/*"))
    seen = [folder.fingerprint()]
    make("unrelated", b"x")
    make("a/.hidden", b"xyz")
    assert folder.fingerprint() == seen[0]
    for change in (
        lambda: make("b/1", b"x"),
        lambda: make("b/1", b"xy"),
        lambda: (tmp_path / "b/1").rename(tmp_path / "a/2"),
        lambda: (tmp_path / "a/2").unlink(),
        lambda: (tmp_path / "a/1").symlink_to("nowhere") if (tmp_path / "a/1").unlink() else 0,
    ):
        change()
        seen.append(folder.fingerprint())
    assert len(set(seen)) == 5  # the last but one state equals the first
    assert seen[4] == seen[0]


def test_a_file_as_large_as_the_memory_is_not_read(tmp_path):
    with (tmp_path / "image").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(tmp_path / "image", "top/image")
    assert (tmp_path / "bomb.zip").stat().st_size < 1e6
    folder = files.FolderFiles(tmp_path, ("image",))
    for source in (folder, files.ZipFiles(tmp_path / "bomb.zip", "top")):
        with pytest.raises(SettingError, match="not a readable image .*268,435,457 bytes"):
            files.decode(source, ["image"], 8, tmp_path)


def parts(value):
    pixels = torch.full((2, 3, 4, 4), value, dtype=torch.uint8)
    return Images(pixels, torch.tensor([0, 1])), Images(pixels[:1], torch.tensor([1]))


def value(loaded):
    train, test = loaded
    assert (len(train), len(test)) == (2, 1)
    assert train.labels.tolist() == [0, 1]
    return int(train.pixels.unique())


def test_cache_is_used_until_the_key_changes(tmp_path, caplog):
    path = tmp_path / "cache.pt"
    assert value(cached(path, "a", lambda: parts(1))) == 1
    assert value(cached(path, "a", lambda: parts(2))) == 1
    assert value(cached(path, "b", lambda: parts(3))) == 3
    assert value(cached(path, "b", lambda: parts(4))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["cache.pt"]
    assert caplog.records == []


def test_what_a_killed_process_left_is_removed(tmp_path):
    others = [".cache.pt.lock2", ".cache.pt.tmp", ".other.pt.0123abcd"]
    for name in (".cache.pt.0123abcd", ".cache.pt.4567cdef", *others):
        (tmp_path / name).write_bytes(b"x" * 999)
    cached(tmp_path / "cache.pt", "a", lambda: parts(1))
    assert {path.name for path in tmp_path.iterdir()} == {"cache.pt", *others}


def test_the_place_of_the_cache_and_how_to_move_it_are_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cached(tmp_path / "new" / "cache.pt", "a", lambda: parts(1))
    assert f"kept in {tmp_path / 'new' / 'cache.pt'} (0 MB); dataset.cache=" in caplog.text


def test_of_several_processes_one_builds(tmp_path):
    """The others wait for what it makes; each has its own lock on the file, as processes have."""
    builds = []

    def build():
        builds.append(1)
        time.sleep(0.5)
        return parts(7)

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(cached, tmp_path / "cache.pt", "a", build) for _ in range(3)]
        assert [value(job.result()) for job in jobs] == [7, 7, 7]
    assert len(builds) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "flipped bit", "other content"])
def test_a_damaged_cache_is_made_again(tmp_path, caplog, damage):
    path = tmp_path / "cache.pt"
    cached(path, "a", lambda: parts(77))
    content = path.read_bytes()
    if damage == "other content":
        torch.save({"key": "a"}, path)
    else:
        flipped = content.replace(b"\x4d" * 8, b"\x4d" * 7 + b"\x4c", 1)
        assert flipped != content
        damaged = {"cut": content[:-50], "empty": b"", "garbage": b"x" * 99, "flipped bit": flipped}
        path.write_bytes(damaged[damage])
    assert value(cached(path, "a", lambda: parts(2))) == 2
    assert value(cached(path, "a", lambda: parts(3))) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"the cache {path} is damaged; it is made again"
    ]


def test_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path, caplog, monkeypatch):
    def refuse(path, write):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("expanders.data.cache.write_atomically", refuse)
    assert value(cached(tmp_path / "cache.pt", "a", lambda: parts(5))) == 5
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "cache.pt cannot be written" in warning.getMessage()
    assert "\n" not in warning.getMessage()
