"""The data sets. Each is one function here and one file in conf/dataset/.

A data set is a function that returns a `Source` at once: the number of classes, and how to load
the images. It reads no image before `load()` is called.

Sets that have to be decoded keep the decoded images in one file in the folder `cache`, by default
`root`. `storage` says where the images are while a network trains: in `memory`, or on the `disk`,
from which batches are read as they are needed; `auto` is in memory where they fit.
"""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from expanders.data.cache import Contents, Parts, cached
from expanders.data.decoding import decode
from expanders.data.files import Files, FolderFiles, ZipFiles, download, fingerprint
from expanders.data.formats import (
    Decoded,
    Labelled,
    check_class_folders,
    class_folder_labels,
    read_cifar_batches,
    read_svhn,
    tinyimagenet_labels,
)
from expanders.data.images import Images, Source, num_validation, split
from expanders.data.stored import Storage
from expanders.errors import SettingError, check_choice
from expanders.seeds import stream

StrPath = str | os.PathLike[str]

TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINYIMAGENET_FILES = ("wnids.txt", "train/*/images/*", "val/val_annotations.txt", "val/images/*")
TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def digits(num_images: int = 1797) -> Source:
    """Scikit-learn's handwritten digits: 1,797 real grey images of 10 classes, no download.

    Enlarged from 8x8 to 32x32 by bilinear interpolation, which keeps strokes smooth where copying
    pixels would add edges that nobody wrote. The test part is a fixed stratified fifth. For a quick
    trial, take only the first `num_images`, training and test part together; at least 50.
    """
    if not 50 <= num_images <= 1797:
        remedy = "must be between 50 and 1797"
        raise SettingError("dataset.source.num_images", num_images, remedy)

    def load() -> tuple[Images, Images]:
        from sklearn.datasets import load_digits

        data = load_digits()
        grey = torch.from_numpy(data.images[:num_images]).float()[:, None] * (255 / 16)
        large = F.interpolate(grey, (32, 32), mode="bilinear").round().to(torch.uint8)
        labels = torch.from_numpy(data.target[:num_images]).long()
        images = Images(large.repeat(1, 3, 1, 1), labels)
        return split(images, 0.2, stream(0, "digits", "test"))

    return Source(10, load, num_train=lambda: num_images - num_validation(0.2, num_images))


def cifar10(root: StrPath, cache: StrPath | None = None, storage: Storage = "auto") -> Source:
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes, 32x32.

    Reads the official pickled batches from `root/cifar-10-batches-py/`, or straight from
    `root/cifar-10-python.tar.gz`, which is downloaded if neither is there.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    from torchvision.datasets import CIFAR10 as official

    return _cifar(official, 10, "labels", _places(root, cache, storage), storage)


def cifar100(root: StrPath, cache: StrPath | None = None, storage: Storage = "auto") -> Source:
    """CIFAR-100: as CIFAR-10, but with 100 classes of 500 training and 100 test images each.

    The folder is `root/cifar-100-python/`, the archive `root/cifar-100-python.tar.gz`.
    """
    from torchvision.datasets import CIFAR100 as official

    return _cifar(official, 100, "fine_labels", _places(root, cache, storage), storage)


def _cifar(
    official: Any, num_classes: int, labels: str, places: tuple[Path, Path], storage: Storage
) -> Source:
    """One of the CIFARs, with the address and the checksums that torchvision has of it."""
    root, kept_in = places
    folder, archive = root / official.base_folder, root / official.filename
    train, test = dict(official.train_list), dict(official.test_list)

    def read() -> tuple[Decoded, Decoded]:
        batches = read_cifar_batches(root, folder, archive, train | test, labels)
        return _concatenated([batches[n] for n in train]), _concatenated([batches[n] for n in test])

    def load() -> Parts:
        if folder.is_dir():
            here = [name for name in (train | test) if (folder / name).exists()]
            key = fingerprint(folder, here)
        else:
            download(root, archive.name, official.url, official.tgz_md5)
            key = fingerprint(root, [archive.name])
        name = official.base_folder.removesuffix("-batches-py").removesuffix("-python")
        return _from_arrays(kept_in / f"{name}.cache", key, storage, root, read)

    return Source(num_classes, load, num_train=lambda: 50_000)


def svhn(root: StrPath, cache: StrPath | None = None, storage: Storage = "auto") -> Source:
    """Street View House Numbers, cropped: 73,257 training and 26,032 test digits, 32x32.

    Reads `root/train_32x32.mat` and `root/test_32x32.mat`, which are downloaded if they are not
    there. The 531,131 additional, easier images of the set are not used.

    Netzer et al., "Reading digits in natural images with unsupervised feature learning", 2011.
    """
    root, kept_in = _places(root, cache, storage)

    def load() -> Parts:
        from torchvision.datasets import SVHN as official  # its addresses and checksums

        parts = [official.split_list[part] for part in ("train", "test")]
        for url, name, md5 in parts:
            download(root, name, url, md5)

        def read() -> tuple[Decoded, Decoded]:
            train, test = (read_svhn(root, root / name, md5) for _, name, md5 in parts)
            return train, test

        key = fingerprint(root, [name for _, name, _ in parts])
        return _from_arrays(kept_in / "svhn.cache", key, storage, root, read)

    return Source(10, load, num_train=lambda: 73_257)


def tinyimagenet(root: StrPath, cache: StrPath | None = None, storage: Storage = "auto") -> Source:
    """Tiny ImageNet: 100,000 training and 10,000 test images of 200 classes, 64x64.

    Reads `root/tiny-imagenet-200/`, or straight from `root/tiny-imagenet-200.zip`, which is
    downloaded if neither is there. The test part is the labelled `val/`: the official test images
    have no labels. Classes are numbered in the order of their sorted WordNet ids.
    """
    root, kept_in = _places(root, cache, storage)

    def load() -> Parts:
        folder, archive = root / "tiny-imagenet-200", root / "tiny-imagenet-200.zip"
        files: Files
        if folder.is_dir():
            files = FolderFiles(folder, TINYIMAGENET_FILES)
        else:
            download(root, archive.name, TINYIMAGENET_URL, TINYIMAGENET_MD5)
            files = ZipFiles(archive, folder.name)
        train, test = tinyimagenet_labels(root, files)
        path = kept_in / "tiny-imagenet-200.cache"
        return _from_files(path, storage, root, files, train, test, 64)

    return Source(200, load, num_train=lambda: 100_000)


def image_folder(
    root: StrPath, size: int = 32, cache: StrPath | None = None, storage: Storage = "auto"
) -> Source:
    """Your own images: `root/train/<class>/*` and `root/test/<class>/*`, of any size and format.

    Where `test/` has no class folders, the test part is `val/<class>/*`, as in ImageNet. Images are
    cut to the centre square and resized to `size` x `size`. Classes are numbered in the order of
    their sorted names. Hidden files and files that are no images are left alone.

    Raises SettingError, at once, if a folder is missing, if the classes of train and test differ,
    or if a class has no image.
    """
    root, kept_in = _places(root, cache, storage)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SettingError("dataset.source.size", size, "must be an integer, at least 1")
    classes, test_folder = check_class_folders(root)
    files = FolderFiles(root, ("train/*/*", f"{test_folder}/*/*"))

    @functools.cache
    def labelled() -> tuple[Labelled, Labelled]:
        return class_folder_labels(files, classes, test_folder)

    def load() -> Parts:
        name = f"images-{size}px"
        if kept_in != root:  # where those of other folders may be kept too
            digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
            name = f"{root.resolve().name}-{digest}-{size}px"
        return _from_files(kept_in / f"{name}.cache", storage, root, files, *labelled(), size)

    def content() -> str:
        digest = hashlib.sha256(f"{size}".encode())
        for part in labelled():
            for name, _ in part:
                digest.update(b"\0" + os.fsencode(name) + f"\0{files.status(name)[0]}".encode())
        return digest.hexdigest()[:16]

    return Source(len(classes), load, content, lambda: len(labelled()[0]))


def _from_files(
    path: Path,
    storage: Storage,
    root: Path,
    files: Files,
    train: Labelled,
    test: Labelled,
    size: int,
) -> Parts:
    """The images in these files, decoded to `size` x `size` pixels and kept in `path`."""
    names = [name for part in (train, test) for name, _ in part]
    digests = (_origin(name, *files.status(name), size) for name in names)
    origins = np.fromiter(digests, dtype=np.uint64, count=len(names))
    labels = [label for _, label in train], [label for _, label in test]
    key = hashlib.sha256(origins.tobytes() + str(labels).encode()).hexdigest()

    def contents() -> Contents:
        return Contents(
            root,
            labels,
            height=size,
            width=size,
            origins=origins,
            decode=lambda number: decode(files.read(names[number]), size),
            name=lambda number: files.path / names[number],
        )

    return cached(path, key, storage, contents)


def _origin(name: str, num_bytes: int, written: int, size: int) -> int:
    """What an image is decoded from and to, in 64 bits."""
    text = os.fsencode(name) + f"\0{num_bytes}\0{written}\0{size}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _from_arrays(
    path: Path,
    key: str,
    storage: Storage,
    root: Path,
    read: Callable[[], tuple[Decoded, Decoded]],
) -> Parts:
    """Images that are in arrays once they are read, kept in `path`."""

    def contents() -> Contents:
        (train, train_labels), (test, test_labels) = read()
        origins = np.arange(len(train) + len(test), dtype=np.uint64)
        return Contents(
            root,
            (train_labels, test_labels),
            height=train.shape[2],
            width=train.shape[3],
            origins=origins + np.uint64(int(key[:15], 16)),
            decode=lambda i: train[i] if i < len(train) else test[i - len(train)],
        )

    return cached(path, key, storage, contents)


def _concatenated(parts: list[Decoded]) -> Decoded:
    pixels, labels = zip(*parts, strict=True)
    return np.concatenate(pixels), [label for part in labels for label in part]


def _places(root: StrPath, cache: StrPath | None, storage: Storage) -> tuple[Path, Path]:
    """The folders of a data set and of its decoded images, after a check of the settings."""
    for setting, value in (("dataset.root", root), ("dataset.cache", cache or root)):
        if not isinstance(value, str | os.PathLike):
            raise SettingError(setting, value, "must be the path of a folder")
    check_choice("dataset.storage", storage, Storage)
    return Path(root).expanduser(), Path(cache or root).expanduser()
