"""The file of decoded images: made once, gone on with, checked, and read in either way."""

import logging
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from expanders.data import cache, stored
from expanders.data.cache import Contents, cached
from expanders.data.imagefile import HEADER_BYTES, Header, unfinished
from expanders.errors import SettingError
from tests.data.image_files import refusal

NAMES = tuple("abcdefgh")  # six training and two test images


def pixels_of(name):
    return np.random.default_rng(list(name.encode())).integers(256, size=(3, 5, 4), dtype=np.uint8)


class Making:
    """Contents of a file of images, which remember what was decoded."""

    def __init__(self, root, names=NAMES, num_test=2, broken=(), decode=pixels_of):
        self.decoded = []
        count = len(names) - num_test

        def decode_(number):
            if names[number] in broken:
                raise OSError(f"no {names[number]}")
            self.decoded.append(names[number])
            return decode(names[number])

        self.contents = Contents(
            root,
            (list(range(count)), list(range(num_test))),
            5,
            4,
            np.array([int.from_bytes(name.encode()) for name in names], dtype=np.uint64),
            decode_,
            lambda number: root / names[number],
        )

    def __call__(self):
        return self.contents


def check(parts, names=NAMES):
    """Whether these are the images of `names`."""
    train, test = (part.to("cpu") for part in parts)
    both = [part.pixels if torch.is_tensor(part.pixels) else part.pixels.read() for part in parts]
    assert np.array_equal(torch.cat(both), np.stack([pixels_of(name) for name in names]))
    assert train.labels.tolist() == list(range(len(train)))
    assert test.labels.tolist() == list(range(len(test)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "set.cache"


def entries(path):
    return sorted(entry.name for entry in path.parent.iterdir())


@pytest.mark.parametrize("storage", ["auto", "memory", "disk"])
def test_images_are_decoded_once_and_again_when_the_key_changes(path, storage, caplog):
    first, second, third = (Making(path.parent) for _ in range(3))
    for key, making, count in (("a", first, 8), ("a", second, 0), ("b", third, 8)):
        train, test = cached(path, key, storage, making)
        check((train, test))
        assert sorted(making.decoded) == sorted(NAMES[:count])
        assert torch.is_tensor(train.to("cpu").pixels) == (storage != "disk")
        assert entries(path) == ["set.cache"]
    assert caplog.records == []


def test_size_and_place_are_said_before_and_after(path, caplog):
    caplog.set_level(logging.INFO)
    cached(path.parent / "new" / "set.cache", "a", "disk", Making(path.parent))
    announced, kept, stays = (record.getMessage() for record in caplog.records)
    assert f"decoding 8 images of {path.parent} into {path.parent}/new/set.cache: " in announced
    assert " GB more on the disk, where " in announced
    assert f"kept in {path.parent}/new/set.cache; dataset.cache=FOLDER moves them" in kept
    assert "stay on disk" in stays


def test_of_several_processes_one_decodes(path):
    """The others wait for what it makes; each has its own lock on the file, as processes have."""
    making = Making(path.parent, decode=lambda name: time.sleep(0.1) or pixels_of(name))
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(cached, path, "a", "auto", making) for _ in range(3)]
        for job in jobs:
            check(job.result())
    assert sorted(making.decoded) == list(NAMES)


KILLED = """
import os, pathlib, sys
from tests.data.test_cache import Making, cached, pixels_of

def decode(name):
    if name == "e":
        os.kill(os.getpid(), 9)
    return pixels_of(name)

path = pathlib.Path(sys.argv[1])
cached(path, "a", "auto", Making(path.parent, decode=decode))
"""


def test_decoding_goes_on_where_it_was_killed(path):
    child = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert child.returncode == -9
    assert ".set.cache.part" in entries(path)
    making = Making(path.parent)
    check(cached(path, "a", "auto", making))
    assert making.decoded == list("efgh")
    assert entries(path) == ["set.cache"]


def test_an_unfinished_file_that_nobody_needs_is_removed(path):
    cached(path, "a", "auto", Making(path.parent))
    unfinished(path).write_bytes(bytes(9999))
    check(cached(path, "a", "auto", Making(path.parent)))
    assert entries(path) == ["set.cache"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("abcdefgh", "bf"),  # replaced by good ones
        ("acdegh", ""),  # taken out: those behind move up
        ("abcdeXfgh", "bXfgh"),  # a new one: those behind had their places written over
    ],
)
def test_all_broken_images_are_named_and_nothing_good_is_decoded_twice(path, names, expected):
    broken = Making(path.parent, broken="bf")
    message = refusal(lambda: cached(path, "a", "disk", broken))
    root = path.parent
    listed = f"2 files are not readable images: {root / 'b'} (no b), {root / 'f'} (no f); replace"
    assert listed in message
    making = Making(root, tuple(names))
    check(cached(path, "b", "disk", making), names)
    assert sorted(making.decoded) == sorted(expected)


def test_many_broken_images_are_listed_in_a_file(path):
    message = refusal(lambda: cached(path, "a", "auto", Making(path.parent, broken=NAMES)))
    assert "8 files are not readable" in message
    assert f"(no e) and 3 more (all in {path.parent / 'set.broken.txt'})" in message
    lines = (path.parent / "set.broken.txt").read_text().splitlines()
    assert lines == [f"{path.parent / name} (no {name})" for name in NAMES]
    check(cached(path, "a", "auto", Making(path.parent)))
    assert entries(path) == ["set.cache"]


def flip(path, number, offset=7):
    """Flip a bit in one image of a file."""
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + number * Header("", 5, 4, 6, 2).slot.itemsize + offset)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def test_a_damaged_image_is_decoded_again(path, caplog):
    cached(path, "a", "auto", Making(path.parent))
    flip(path, 6)
    making = Making(path.parent)
    check(cached(path, "a", "auto", making))
    assert making.decoded == ["g"]
    (warning,) = caplog.messages
    assert warning == f"the cache {path} is damaged: 1 images are decoded again"


def test_damage_on_the_disk_ends_a_run_when_it_is_read_and_the_next_start_mends_it(path):
    cached(path, "a", "disk", Making(path.parent))
    flip(path, 2)
    train, test = cached(path, "a", "disk", Making(path.parent))
    test.pixels.read()
    train[torch.tensor([0, 1, 3])].pixels.read()
    with pytest.raises(SettingError, match=r"dataset\.cache=.*image 2 in it is damaged; the next"):
        train.pixels.read()
    making = Making(path.parent)
    check(cached(path, "a", "disk", making))
    assert making.decoded == ["c"]


def test_a_file_that_is_cut_off_while_it_is_used_ends_a_run_in_one_line(path):
    """Were it mapped into memory, the system would kill the process."""
    _, test = cached(path, "a", "disk", Making(path.parent))
    os.truncate(path, HEADER_BYTES + 100)
    with pytest.raises(SettingError, match=r"dataset\.cache=.*image 6 in it is damaged; the next"):
        test.pixels.read()
    making = Making(path.parent)
    check(cached(path, "a", "disk", making))
    assert sorted(making.decoded) == list("bcdefgh")


def test_a_disk_that_does_not_answer_ends_a_run_in_one_line(path, monkeypatch):
    train, _ = cached(path, "a", "disk", Making(path.parent))

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "preadv", fail)
        with pytest.raises(SettingError, match=r"image 0 in it cannot be read .*Input/output"):
            train.pixels.read()
    check(cached(path, "a", "disk", Making(path.parent)))


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "labels", "version"])
def test_a_file_that_is_none_is_made_again(path, caplog, damage):
    cached(path, "a", "auto", Making(path.parent))
    content = path.read_bytes()
    damaged = {
        "cut": content[:-50],
        "empty": b"",
        "garbage": b"x" * 9999,
        "labels": content[:-1] + b"\x01",
        "version": content.replace(b'"version": 2', b'"version": 1'),
    }
    path.write_bytes(damaged[damage])
    for _ in range(2):
        check(cached(path, "a", "auto", Making(path.parent)))
    (warning,) = caplog.messages
    assert warning.startswith(f"the cache {path} is made again: ")
    assert ("of version 1, not 2" in warning) == (damage == "version")


def test_a_file_that_cannot_be_read_is_left_alone(path, monkeypatch):
    cached(path, "a", "auto", Making(path.parent))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(cache, "ImageFile", refuse)
        with pytest.raises(SettingError, match=r"dataset\.cache=.*cannot be read \(\[Errno 13\]"):
            cached(path, "a", "auto", Making(path.parent))
    making = Making(path.parent)
    check(cached(path, "a", "auto", making))
    assert making.decoded == []


@pytest.fixture
def full(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_disk_that_is_too_small_is_noticed_before_decoding(path, full):
    making = Making(path.parent)
    with pytest.raises(SettingError, match=r"^dataset\.cache=.*GB are needed .* 0\.00 GB are free"):
        cached(path, "a", "disk", making)
    assert making.decoded == []


def test_a_list_of_broken_images_is_not_written_over_the_cache(path, request):
    cached(path, "a", "auto", Making(path.parent))
    content = path.read_bytes()
    request.getfixturevalue("full")
    message = refusal(lambda: cached(path, "b", "memory", Making(path.parent, broken=NAMES)))
    assert f"(all in {path.parent / 'set.broken.txt'})" in message
    assert len((path.parent / "set.broken.txt").read_text().splitlines()) == len(NAMES)
    assert path.read_bytes() == content


def test_a_disk_that_becomes_full_is_one_line_and_what_was_decoded_stays(path, monkeypatch):
    real, writes = os.pwrite, []

    def fill(descriptor, content, offset):
        writes.append(offset)
        if len(writes) > 5:
            raise OSError(28, "No space left on device")
        return real(descriptor, content[:50], offset)  # a full disk takes a part of a write first

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", fill)
        with pytest.raises(SettingError, match=r"cannot be written \(No space left on device\)"):
            cached(path, "a", "disk", Making(path.parent))
    making = Making(path.parent)
    check(cached(path, "a", "disk", making))
    assert "a" not in making.decoded


def test_images_that_fit_in_memory_need_no_disk(path, full, caplog):
    check(cached(path, "a", "auto", Making(path.parent)))
    assert not path.exists()
    (warning,) = caplog.messages
    assert "set.cache cannot be written" in warning


# ---- where images are


def test_auto_is_in_memory_up_to_half_of_what_is_left(monkeypatch):
    monkeypatch.setattr(stored, "available_bytes", lambda device: 1000)
    assert stored.belongs_in_memory(500, "auto")
    assert not stored.belongs_in_memory(501, "auto")
    assert stored.belongs_in_memory(1000, "memory")
    assert not stored.belongs_in_memory(1, "disk")
    with pytest.raises(SettingError, match=r"dataset\.storage=memory: .* use auto or disk"):
        stored.belongs_in_memory(1001, "memory")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not stored.belongs_in_memory(251, "auto")


def test_images_that_do_not_fit_stay_on_the_disk(path, monkeypatch):
    monkeypatch.setattr(stored, "available_bytes", lambda device: 600)
    train, _ = cached(path, "a", "auto", Making(path.parent))
    assert not torch.is_tensor(train.to("cpu").pixels)


def test_reading_ahead_is_bounded_and_ends_with_its_reader(path, monkeypatch):
    train, _ = cached(path, "a", "disk", Making(path.parent))
    asked = []

    def places():
        for i in range(6):
            asked.append(i)
            yield train.pixels[i : i + 1]

    reader = stored.read_ahead(places())
    assert np.array_equal(next(reader)[0], pixels_of("a"))
    assert len(asked) == stored.NUM_AHEAD + 1
    reader.close()
    assert len(asked) == stored.NUM_AHEAD + 1
