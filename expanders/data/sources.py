"""The data sets. Each is one function here and one file in conf/dataset/.

A data set is a function that returns a `Source` at once: the number of classes, and how to load
the images. It reads no image before `load()` is called. What is slow to decode goes through
`cached`, with a key that changes when the files do, and is kept in the folder `cache`, by default
`root`.
"""

import os
from pathlib import Path

import torch
import torch.nn.functional as F

from expanders.data.cache import cached
from expanders.data.files import Files, FolderFiles, ZipFiles, decode, download, fingerprint
from expanders.data.formats import (
    Labelled,
    check_class_folders,
    class_folder_labels,
    read_cifar_batches,
    tinyimagenet_labels,
)
from expanders.data.images import Images, Source, concatenate, split
from expanders.errors import SettingError
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

    return Source(10, load)


def cifar10(root: StrPath, cache: StrPath | None = None) -> Source:
    """CIFAR-10: 50,000 training and 10,000 test images of 10 classes, 32x32.

    Reads the official pickled batches from `root/cifar-10-batches-py/`, or straight from
    `root/cifar-10-python.tar.gz`, which is downloaded if neither is there.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    root, kept_in = _folders(root, cache)

    def load() -> tuple[Images, Images]:
        from torchvision.datasets import CIFAR10 as official  # its address and checksums

        folder, archive = root / official.base_folder, root / official.filename
        train, test = dict(official.train_list), dict(official.test_list)
        if folder.is_dir():
            here = [name for name in (train | test) if (folder / name).exists()]
            key = fingerprint(folder, here)
        else:
            download(root, archive.name, official.url, official.tgz_md5)
            key = fingerprint(root, [archive.name])

        def build() -> tuple[Images, Images]:
            batches = read_cifar_batches(root, folder, archive, train | test)
            test_images = concatenate([batches[name] for name in test])
            return concatenate([batches[name] for name in train]), test_images

        return cached(kept_in / "cifar-10.cache.pt", key, build)

    return Source(10, load)


def tinyimagenet(root: StrPath, cache: StrPath | None = None) -> Source:
    """Tiny ImageNet: 100,000 training and 10,000 test images of 200 classes, 64x64.

    Reads `root/tiny-imagenet-200/`, or straight from `root/tiny-imagenet-200.zip`, which is
    downloaded if neither is there. The test part is the labelled `val/`: the official test images
    have no labels. Classes are numbered in the order of their sorted WordNet ids.
    """
    root, kept_in = _folders(root, cache)

    def load() -> tuple[Images, Images]:
        folder, archive = root / "tiny-imagenet-200", root / "tiny-imagenet-200.zip"
        files: Files
        if folder.is_dir():
            files = FolderFiles(folder, TINYIMAGENET_FILES)
        else:
            download(root, archive.name, TINYIMAGENET_URL, TINYIMAGENET_MD5)
            files = ZipFiles(archive, folder.name)

        def build() -> tuple[Images, Images]:
            train, test = tinyimagenet_labels(root, files)
            return _decoded(root, files, train, 64), _decoded(root, files, test, 64)

        return cached(kept_in / "tiny-imagenet-200.cache.pt", files.fingerprint(), build)

    return Source(200, load)


def image_folder(root: StrPath, size: int = 32, cache: StrPath | None = None) -> Source:
    """Your own images: `root/train/<class>/*` and `root/test/<class>/*`, of any size and format.

    Images are cut to the centre square and resized to `size` x `size`. Classes are numbered in the
    order of their sorted names. Hidden files and files that are no images are left alone.

    Raises SettingError, at once, if a folder is missing, if the classes of train and test differ,
    or if a class has no image.
    """
    root, kept_in = _folders(root, cache)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise SettingError("dataset.source.size", size, "must be an integer, at least 1")
    classes = check_class_folders(root)

    def load() -> tuple[Images, Images]:
        files = FolderFiles(root, ("train/*/*", "test/*/*"))

        def build() -> tuple[Images, Images]:
            train, test = class_folder_labels(files, classes)
            return _decoded(root, files, train, size), _decoded(root, files, test, size)

        key = f"{size} {files.fingerprint()}"
        return cached(kept_in / f"images-{size}px.cache.pt", key, build)

    return Source(len(classes), load)


def _decoded(root: Path, files: Files, labelled: Labelled, size: int) -> Images:
    names, labels = zip(*labelled, strict=True)
    return Images(decode(files, names, size, root), torch.tensor(labels))


def _folders(root: StrPath, cache: StrPath | None) -> tuple[Path, Path]:
    """The folders of a data set and of its decoded images."""
    for setting, value in (("dataset.root", root), ("dataset.cache", cache or root)):
        if not isinstance(value, str | os.PathLike):
            raise SettingError(setting, value, "must be the path of a folder")
    return Path(root).expanduser(), Path(cache or root).expanduser()
