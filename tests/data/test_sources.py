"""Digits and CIFAR-10, the latter on small batches in the official format, whole and broken."""

import hashlib
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from expanders.data import cifar10, cifar100, digits, svhn, tinyimagenet
from expanders.errors import SettingError
from tests.data.image_files import NOWHERE, loaded, refusal, write


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(CIFAR10, "url", NOWHERE)


# ---- digits


@pytest.mark.parametrize("number", [50, 52, 1797])
def test_how_many_digits_there_are_to_train_on_is_known_without_reading_them(number):
    source = digits(number)
    assert source.num_train() == len(source.load()[0])


def test_digits():
    source = digits()
    train, test = loaded(source)
    assert source.num_classes == 10
    assert (len(train), len(test)) == (1438, 359)
    assert train.pixels.shape[1:] == (3, 32, 32)
    assert (train.pixels.dtype, train.labels.dtype) == (torch.uint8, torch.int64)
    assert train.pixels.is_contiguous()
    assert (train.pixels.min(), train.pixels.max()) == (0, 255)
    assert (train.pixels[:, 0] == train.pixels[:, 2]).all()
    shares = test.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert (shares - 0.2).abs().max() < 0.01
    again = loaded(source)[1]
    assert torch.equal(test.pixels, again.pixels)


def test_a_few_digits():
    train, test = digits(100).load()
    assert (len(train), len(test)) == (80, 20)
    for number in (49, 1798):
        with pytest.raises(SettingError, match=rf"^dataset\.source\.num_images={number}: must be"):
            digits(number)


# ---- CIFAR-10


class Python2Pickler(pickle.Pickler):
    """Names a dtype as the official files do, which recent NumPy warns of when it is read."""

    def reducer_override(self, obj):
        if isinstance(obj, np.dtype):
            return np.dtype, (obj.str[1:], 0, 1)
        return NotImplemented


def cifar_batch(seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(256, size=(20, 3072), dtype=np.uint8)
    file = io.BytesIO()
    labels = rng.integers(10, size=20).tolist()
    Python2Pickler(file, protocol=2).dump({"data": data, "labels": labels, "batch_label": "x"})
    return file.getvalue(), data, labels


@pytest.fixture
def cifar(monkeypatch):
    """Six small batches by name, whose checksums count as the official ones."""
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = {name: cifar_batch(i) for i, name in enumerate(names)}
    checksums = [[name, hashlib.md5(batches[name][0]).hexdigest()] for name in names]
    monkeypatch.setattr(CIFAR10, "train_list", checksums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", checksums[5:])
    return batches


def cifar_folder(root, cifar):
    folder = root / "cifar-10-batches-py"
    write(folder, {name: content for name, (content, _, _) in cifar.items()})
    return folder


def cifar_archive(root, cifar):
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, (content, _, _) in sorted(cifar.items(), reverse=True):  # in any order
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [cifar_folder, cifar_archive])
def test_cifar10_from_folder_and_archive(tmp_path, cifar, make):
    made = make(tmp_path, cifar)
    source = cifar10(tmp_path)
    train, test = loaded(source)
    assert source.num_classes == 10
    names = [f"data_batch_{i}" for i in range(1, 6)]
    expected = np.concatenate([cifar[name][1] for name in names]).reshape(-1, 3, 32, 32)
    assert np.array_equal(train.pixels.numpy(), expected)
    assert train.labels.tolist() == [label for name in names for label in cifar[name][2]]
    assert np.array_equal(test.pixels.flatten(1).numpy(), cifar["test_batch"][1])
    assert test.labels.tolist() == cifar["test_batch"][2]
    present = sorted(path.name for path in tmp_path.iterdir())
    assert present == sorted([made.name, "cifar-10.cache"])
    assert torch.equal(loaded(cifar10(tmp_path))[0].pixels, train.pixels)


def test_cifar10_without_data_or_network(tmp_path):
    source = cifar10(tmp_path / "here")  # at once, without a look at the folder
    message = refusal(source.load)
    assert f"dataset.root={tmp_path / 'here'}: has no cifar-10-python.tar.gz" in message
    assert NOWHERE in message


def test_cifar10_truncated_archive(tmp_path, cifar):
    path = cifar_archive(tmp_path, cifar)
    path.write_bytes(path.read_bytes()[:-5000])
    assert f"{path} is damaged" in refusal(cifar10(tmp_path).load)


def test_cifar10_file_that_is_no_archive(tmp_path, cifar):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"<html>not found</html>")
    assert f"{path} is damaged" in refusal(cifar10(tmp_path).load)


def test_cifar10_never_unpickles_what_is_not_official(tmp_path, cifar):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trapped"),)

    folder = cifar_folder(tmp_path, cifar)
    (folder / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    message = refusal(cifar10(tmp_path).load)
    assert f"data_batch_3 in {folder} is not the official file" in message
    assert not (tmp_path / "trapped").exists()


def test_cifar10_missing_batch(tmp_path, cifar):
    folder = cifar_folder(tmp_path, cifar)
    (folder / "test_batch").unlink()
    assert f"{folder} has no test_batch" in refusal(cifar10(tmp_path).load)


def test_cifar10_links_in_the_archive_are_not_followed(tmp_path, cifar):
    path = cifar_archive(tmp_path, cifar)
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "data_batch_1"
        tar.addfile(member)
    assert f"{path} has no data_batch_1" in refusal(cifar10(tmp_path).load)


def test_cifar10_archive_that_unpacks_to_more_than_the_memory(tmp_path, cifar):
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = 1 << 40
        tar.addfile(member)  # the header is enough
    assert "unpacks to more than 268,435,456 bytes" in refusal(cifar10(tmp_path).load)


def test_cifar100_has_the_fine_labels(tmp_path, monkeypatch):
    data = np.random.default_rng(0).integers(256, size=(20, 3072), dtype=np.uint8)
    contents = {}
    for name, labels in (("train", range(40, 60)), ("test", range(80, 100))):
        batch = {"data": data, "fine_labels": list(labels), "coarse_labels": [0] * 20}
        contents[name] = pickle.dumps(batch, protocol=2)
        checksum = hashlib.md5(contents[name]).hexdigest()
        monkeypatch.setattr(CIFAR100, f"{name}_list", [[name, checksum]])
    write(tmp_path / "cifar-100-python", contents)
    source = cifar100(tmp_path)
    train, test = loaded(source)
    assert source.num_classes == 100
    assert np.array_equal(train.pixels.flatten(1), data)
    assert train.labels.tolist() == list(range(40, 60))
    assert test.labels.tolist() == list(range(80, 100))
    assert (tmp_path / "cifar-100.cache").exists()


# ---- SVHN


@pytest.fixture
def svhn_files(tmp_path, monkeypatch):
    """Both files in a small size, whose checksums count as the official ones."""
    splits = {}
    for part, count in (("train", 11), ("test", 3)):
        pixels = np.random.default_rng(count).integers(256, size=(32, 32, 3, count), dtype=np.uint8)
        labels = (np.arange(count) % 10 + 1)[:, None]  # a zero has the label 10
        path = tmp_path / f"{part}_32x32.mat"
        savemat(path, {"X": pixels, "y": labels})
        splits[part] = [NOWHERE, path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", splits)
    return tmp_path


def test_svhn(svhn_files):
    source = svhn(svhn_files)
    train, test = loaded(source)
    assert source.num_classes == 10
    assert train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert test.labels.tolist() == [1, 2, 3]
    stored = loadmat(svhn_files / "test_32x32.mat")["X"]
    assert np.array_equal(test.pixels[2, 1], stored[:, :, 1, 2])
    assert torch.equal(loaded(svhn(svhn_files))[0].pixels, train.pixels)


def test_svhn_that_is_not_the_official_file(svhn_files):
    (svhn_files / "test_32x32.mat").write_bytes(b"x")
    assert "test_32x32.mat is not the official file; delete it" in refusal(svhn(svhn_files).load)


def test_svhn_without_data_or_network(tmp_path, svhn_files):
    (svhn_files / "train_32x32.mat").unlink()
    assert "has no train_32x32.mat" in refusal(svhn(svhn_files).load)


@pytest.mark.parametrize("dataset", [cifar10, cifar100, svhn, tinyimagenet])
def test_an_unknown_storage(tmp_path, dataset):
    with pytest.raises(SettingError, match=r"dataset\.storage=tape: choose auto, memory or disk"):
        dataset(tmp_path, storage="tape")
