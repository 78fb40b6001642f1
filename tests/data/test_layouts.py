"""Tiny ImageNet and folders of images, on small files in the real layouts, whole and broken."""

import logging
import os
import shutil
import zipfile

import pytest
import torch

from expanders.data import cifar10, files, image_folder, sources, tinyimagenet
from expanders.errors import SettingError
from tests.data.image_files import NOWHERE, jpeg, loaded, refusal, write


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sources, "TINYIMAGENET_URL", NOWHERE)


# ---- Tiny ImageNet

WNIDS = [f"n{1000 + i}" for i in range(200)]


def tiny_contents():
    """Tiny ImageNet with one training and one validation image of each of its 200 classes."""
    contents = {"wnids.txt": "\n".join(reversed(WNIDS)).encode()}  # in no particular order
    annotations = []
    for i, wnid in enumerate(WNIDS):
        color, mode = (i, i, 0), "RGB"
        if i == 7:
            color, mode = (7, 7, 7), "L"  # some of the real images are grey
        contents[f"train/{wnid}/images/{wnid}_0.JPEG"] = jpeg(color, 64, mode)
        contents[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t63\t63\n".encode()
        contents[f"val/images/val_{i}.JPEG"] = jpeg(color, 64)
        annotations.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t63\t63\n")
    contents["val/val_annotations.txt"] = "".join(reversed(annotations)).encode()
    contents["test/images/test_0.JPEG"] = jpeg("red", 64)
    return contents


@pytest.fixture(scope="module")
def tiny():
    return tiny_contents()


def tiny_folder(root, contents):
    write(root / "tiny-imagenet-200", contents)
    return root / "tiny-imagenet-200"


def tiny_zip(root, contents):
    path = root / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../escaped.txt", "must never be written")
        archive.writestr("tiny-imagenet-200/", "")
        for name, content in contents.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    return path


@pytest.mark.parametrize("make", [tiny_folder, tiny_zip])
def test_tinyimagenet_from_folder_and_zip(tmp_path, tiny, make):
    root = tmp_path / "data"
    root.mkdir()
    made = make(root, tiny)
    source = tinyimagenet(root)
    assert source.num_classes == 200
    for part in loaded(source):
        assert part.pixels.shape == (200, 3, 64, 64)
        assert sorted(part.labels.tolist()) == list(range(200))
        red = part.pixels[:, 0].float().mean((1, 2))
        assert (red - part.labels).abs().max() < 3  # the image of class i has the color i
    assert {path.name for path in root.iterdir()} == {made.name, "tiny-imagenet-200.cache"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]  # nothing escaped


def test_tinyimagenet_without_data_or_network(tmp_path):
    message = refusal(tinyimagenet(tmp_path).load)
    assert "has no tiny-imagenet-200.zip" in message
    assert NOWHERE in message


@pytest.mark.parametrize("make", [tiny_folder, tiny_zip])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("wnids.txt", None, "wnids.txt"),
        ("wnids.txt", b"n1000\nn1001", "lists 2 classes instead of 200"),
        ("val/val_annotations.txt", None, "val_annotations.txt"),
        ("val/val_annotations.txt", b"val_0.JPEG", "line without a class"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn7", "val_annotations.txt has a line without"),
        ("val/val_annotations.txt", b"val_0.JPEG\tn1000\t0", "val has no image of class n1001"),
        ("train/n1003/images/n1003_0.JPEG", None, "train has no image of class n1003"),
        ("train/n1003/images/n1003_0.JPEG", jpeg("red", 64)[:-99], "3_0.JPEG is not a readable"),
        ("val/images/val_9.JPEG", None, "val_9.JPEG is not a readable"),
    ],
)  # fmt: skip
def test_tinyimagenet_broken(tmp_path, tiny, make, name, content, reason):
    changed = tiny | {name: content}
    made = make(tmp_path, {name: content for name, content in changed.items() if content})
    message = refusal(tinyimagenet(tmp_path).load)
    assert reason in message
    assert str(made) in message


def test_tinyimagenet_truncated_zip(tmp_path, tiny):
    path = tiny_zip(tmp_path, tiny)
    path.write_bytes(path.read_bytes()[:-1000])
    assert f"{path} is damaged" in refusal(tinyimagenet(tmp_path).load)


def test_tinyimagenet_bad_member_of_a_zip(tmp_path, tiny):
    path, name = tiny_zip(tmp_path, tiny), "train/n1003/images/n1003_0.JPEG"
    content = tiny[name]
    path.write_bytes(path.read_bytes().replace(content, content[:-20] + bytes(20)))
    assert f"{path / name} (Bad CRC" in refusal(tinyimagenet(tmp_path).load)


def test_tinyimagenet_of_a_zip_that_unpacks_to_more_than_the_memory(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 1 << 20)
    name = "val/images/val_9.JPEG"
    path = tiny_zip(tmp_path, tiny | {name: bytes(1 << 21)})
    message = refusal(tinyimagenet(tmp_path).load)
    assert f"{path / name} is not a readable image (2,097,152 bytes, more than" in message


# ---- folders of images


def folder_contents():
    return {
        f"{part}/{name}/{i}.jpg": jpeg(color, side)
        for part, count in (("train", 3), ("test", 2))
        for name, color in (("cat", "red"), ("dog", "blue"))
        for i, side in zip(range(count), (20, 32, 50), strict=False)
    }


def test_image_folder(tmp_path):
    write(tmp_path, folder_contents())
    write(tmp_path, {"train/cat/notes.txt": b"x", "train/cat/._0.jpg": b"x", "readme.md": b"x"})
    write(tmp_path, {"train/.cache/0.jpg": b"x"})
    source = image_folder(str(tmp_path), size=16)
    train, test = loaded(source)
    assert source.num_classes == 2
    assert (train.pixels.shape, test.pixels.shape) == ((6, 3, 16, 16), (4, 3, 16, 16))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 0, 1, 1]
    red_minus_blue = train.pixels[:, 0].float().mean((1, 2)) - train.pixels[:, 2].float().mean(
        (1, 2)
    )
    assert (red_minus_blue > 200).tolist() == [True] * 3 + [False] * 3


def test_image_folder_notices_changes_and_sizes(tmp_path):
    write(tmp_path, folder_contents())
    assert len(loaded(image_folder(tmp_path))[0]) == 6
    write(tmp_path, {"train/dog/more.jpg": jpeg("blue", 32)})
    assert len(loaded(image_folder(tmp_path))[0]) == 7
    write(tmp_path, {"train/cat/0.jpg": jpeg("green", 40)})
    image = loaded(image_folder(tmp_path))[0].pixels[0]
    assert image[1].float().mean() > image[0].float().mean()
    assert loaded(image_folder(tmp_path, size=8))[0].pixels.shape == (7, 3, 8, 8)
    assert loaded(image_folder(tmp_path))[0].pixels.shape == (7, 3, 32, 32)


def test_image_folder_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pets", folder_contents())
    assert image_folder("~/pets").num_classes == 2


def test_image_folder_decodes_once(tmp_path, monkeypatch):
    write(tmp_path, folder_contents())
    first = loaded(image_folder(tmp_path))
    monkeypatch.setattr(sources, "decode", None)  # calling it would fail
    second = loaded(image_folder(tmp_path))
    for before, after in zip(first, second, strict=True):
        assert torch.equal(before.pixels, after.pixels)
        assert torch.equal(before.labels, after.labels)


@pytest.mark.parametrize(
    ("removed", "added", "reason"),
    [
        ("", {}, "there is no folder"),
        ("train/", {}, "train; expected are train/<class>/* and test/<class>/* (or val/<class>/*)"),
        ("test/", {}, "there is no test part, which is looked at once, at the end; expected are"),
        ("test/", {"test/1.jpg": b"x", "val/2.jpg": b"x"}, "there is no test part"),
        ("train/", {"train/1.jpg": b"x"}, "train has no class folder"),
        ("test/dog/", {}, "but: dog only in train"),
        ("test/dog/", {"test/cow/1.jpg": b"x"}, "but: cow only in test, dog only in train"),
        ("test/", {"val/dog/1.jpg": b"x"}, "train and val must have the same class folders, but"),
        ("train/dog/", {"train/dog/notes.txt": b"x"}, "dog has no image (.jpg"),
    ],
)
def test_image_folder_of_a_wrong_shape_is_refused_at_once(tmp_path, removed, added, reason):
    contents = folder_contents()
    kept = {name: content for name, content in contents.items() if not name.startswith(removed)}
    write(tmp_path, kept | added)
    assert reason in refusal(lambda: image_folder(tmp_path))


def test_image_folder_follows_links_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", folder_contents())
    root = tmp_path / "root"
    write(root, {f"{part}/cat/0.jpg": jpeg("red", 32) for part in ("train", "test")})
    for part in ("train", "test"):
        (root / part / "dog").symlink_to(tmp_path / "elsewhere" / part / "dog")
        (root / part / "itself").symlink_to("itself")
        for name in ("up", "above"):  # every way through these two has two ways to go on
            (root / part / "cat" / name).symlink_to(root)
    source = image_folder(root)
    assert source.num_classes == 2
    train, test = loaded(source)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 1, 1], [0, 1, 1])


def test_image_folder_in_imagenets_layout(tmp_path):
    contents = folder_contents()
    contents = {name.replace("test/", "val/"): content for name, content in contents.items()}
    write(tmp_path, contents | {"test/unlabelled.jpg": jpeg("red", 32)})
    train, test = loaded(image_folder(tmp_path))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_image_folder_with_a_validation_part_of_its_own(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    write(tmp_path, folder_contents() | {"val/cat/1.jpg": jpeg("red", 32)})
    assert len(loaded(image_folder(tmp_path))[1]) == 4
    assert f"{tmp_path / 'val'} is not used: val_fraction" in caplog.text


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    write(tmp_path / "a", folder_contents())
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for path in (tmp_path / "b").rglob("*.jpg"):
        os.utime(path, (0, 0))
    seen = [image_folder(tmp_path / "a").fingerprint()]
    image_folder(tmp_path / "b").load()
    assert image_folder(tmp_path / "b").fingerprint() == seen[0]
    seen.append(image_folder(tmp_path / "b", size=8).fingerprint())
    write(tmp_path, {"b/train/cat/0.jpg": jpeg("green", 40)})
    seen.append(image_folder(tmp_path / "b").fingerprint())
    (tmp_path / "b/train/cat/0.jpg").rename(tmp_path / "b/train/cat/9.jpg")
    seen.append(image_folder(tmp_path / "b").fingerprint())
    assert len(set(seen)) == 4
    assert tinyimagenet(tmp_path).fingerprint is None


@pytest.mark.parametrize("target", ["itself.png", "nowhere.png"])
def test_image_folder_names_a_link_that_leads_nowhere(tmp_path, target):
    write(tmp_path, folder_contents())
    (tmp_path / "train/cat/itself.png").symlink_to(target)
    message = refusal(image_folder(tmp_path).load)
    assert "itself.png is not a readable image" in message


def test_image_folder_leaves_pipes_and_folders_alone(tmp_path):
    write(tmp_path, folder_contents())
    os.mkfifo(tmp_path / "train/cat/x.png")  # reading it would wait for ever
    (tmp_path / "train/dog/y.png").mkdir()
    assert len(loaded(image_folder(tmp_path))[0]) == 6


def test_image_folder_whose_only_image_is_a_folder(tmp_path):
    write(tmp_path, folder_contents() | {"train/ant/1.png/notes.txt": b"x"})
    assert "ant has no image" in refusal(lambda: image_folder(tmp_path))


def test_image_folder_with_names_that_are_not_utf8(tmp_path):
    write(tmp_path, folder_contents())
    for part in ("train", "test"):
        folder = os.fsencode(tmp_path / part) + b"/caf\xe9"
        os.mkdir(folder)
        with open(folder + b"/\xff.jpg", "wb") as file:
            file.write(jpeg("green", 32))
    source = image_folder(tmp_path)
    assert source.num_classes == 3
    assert loaded(source)[0].labels.tolist() == [0] + [1] * 3 + [2] * 3
    with open(os.fsencode(tmp_path) + b"/train/caf\xe9/\n.jpg", "wb") as file:
        file.write(b"no image")
    message = refusal(image_folder(tmp_path).load)
    assert r"train/caf\udce9/\n.jpg is not a readable image" in message
    message.encode()


def test_the_cache_can_be_kept_elsewhere(tmp_path, monkeypatch):
    write(tmp_path / "root", folder_contents())
    before = sorted(tmp_path.glob("root/**/*"))
    first = loaded(image_folder(tmp_path / "root", cache=tmp_path / "new" / "cache"))
    assert sorted(tmp_path.glob("root/**/*")) == before
    assert len(list((tmp_path / "new" / "cache").iterdir())) == 1
    monkeypatch.setattr(sources, "decode", None)  # calling it would fail
    second = loaded(image_folder(tmp_path / "root", cache=tmp_path / "new" / "cache"))
    assert torch.equal(first[0].pixels, second[0].pixels)
    with pytest.raises(SettingError, match=r"^dataset\.cache=5: must be the path of a folder"):
        image_folder(tmp_path / "root", cache=5)


def test_image_folder_truncated_jpeg(tmp_path):
    write(tmp_path, folder_contents() | {"test/dog/1.jpg": jpeg("blue", 64)[:-200]})
    message = refusal(image_folder(tmp_path).load)
    assert f"{tmp_path / 'test/dog/1.jpg'} is not a readable image" in message


@pytest.mark.parametrize("size", [0, "big", None, 2.5, True])
def test_image_folder_size(tmp_path, size):
    with pytest.raises(SettingError, match=r"^dataset\.source\.size="):
        image_folder(tmp_path, size=size)


@pytest.mark.parametrize("dataset", [cifar10, tinyimagenet, image_folder])
@pytest.mark.parametrize("root", [None, 5])
def test_a_root_that_is_no_path(dataset, root):
    assert "must be the path of a folder" in refusal(lambda: dataset(root))
