"""How each data set names its files and labels, and the check that all of them are there."""

import hashlib
import io
import logging
import os
import pickle
import tarfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from expanders.data.decoding import IMAGE_SUFFIXES, READ_ERRORS, is_image
from expanders.data.files import MAX_FILE_BYTES, Files, bad_root, is_regular
from expanders.errors import one_line

log = logging.getLogger(__name__)

Labelled = Sequence[tuple[str, int]]  # names of image files, each with its label
Decoded = tuple[np.ndarray, list[int]]  # uint8 pixels (N, 3, H, W), and labels


def read_cifar_batches(
    root: Path, folder: Path, archive: Path, checksums: Mapping[str, str], labels: str
) -> dict[str, Decoded]:
    """CIFAR's pickled batches, by name: from `folder` if it exists, otherwise from `archive`.

    `labels` is the name of the labels in a batch. `checksums` has the MD5 of every batch. Only a
    batch that has it is unpickled, as a pickle can run any code. Raises SettingError for one that
    is missing or differs.
    """
    source = folder if folder.is_dir() else archive
    remedy = "replace it, or delete it to have it downloaded"
    try:
        contents = _read_members(folder, archive, checksums)
    except (*READ_ERRORS, tarfile.TarError) as error:
        raise bad_root(root, f"{source} is damaged ({one_line(error)}); {remedy}") from error
    for name, checksum in checksums.items():
        if name not in contents:
            raise bad_root(root, f"{source} has no {name}; {remedy}")
        if hashlib.md5(contents[name], usedforsecurity=False).hexdigest() != checksum:
            raise bad_root(root, f"{name} in {source} is not the official file; {remedy}")
    return {name: _unpickle_batch(contents[name], labels) for name in checksums}


def _read_members(folder: Path, archive: Path, names: Iterable[str]) -> dict[str, bytes]:
    if folder.is_dir():
        return {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    wanted = {f"{folder.name}/{name}": name for name in names}
    contents = {}
    with tarfile.open(archive) as tar:
        for member in tar:  # in the archive's order: looking up by name would unpack it many times
            if member.offset_data + member.size > MAX_FILE_BYTES:  # skipping it would take hours
                raise tarfile.ReadError(f"it unpacks to more than {MAX_FILE_BYTES:,} bytes")
            # Not a link, which could lead to itself.
            if member.name in wanted and member.isreg() and (file := tar.extractfile(member)):
                contents[wanted[member.name]] = file.read()
    return contents


def _unpickle_batch(content: bytes, labels: str) -> Decoded:
    with warnings.catch_warnings():
        # The official files come from Python 2; recent NumPy warns of how they name a dtype.
        warnings.simplefilter("ignore")
        batch = pickle.loads(content, encoding="latin1")
    return batch["data"].reshape(-1, 3, 32, 32), batch[labels]


def read_svhn(root: Path, path: Path, md5: str) -> Decoded:
    """The cropped digits in one of SVHN's MATLAB files; the label of a zero is 0, there 10.

    Raises SettingError for a file that is not the official one.
    """
    from scipy.io import loadmat

    content = path.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        remedy = "is not the official file; delete it to have it downloaded"
        raise bad_root(root, f"{path} {remedy}")
    stored = loadmat(io.BytesIO(content))  # type: ignore[arg-type]
    labels = stored["y"].ravel().astype(int) % 10
    return stored["X"].transpose(3, 2, 0, 1), labels.tolist()


def tinyimagenet_labels(root: Path, files: Files) -> tuple[Labelled, Labelled]:
    """The labelled images of Tiny ImageNet's training part and of its validation part.

    Raises SettingError if the list of classes or of labels is missing, or a class has no image.
    """
    try:
        names = files.names()
        wnids = sorted(files.read("wnids.txt").decode().split())
        annotations = files.read("val/val_annotations.txt").decode().splitlines()
    except READ_ERRORS as error:
        remedy = "replace it, or delete it to have it downloaded"
        problem = f"{files.path} is damaged or incomplete ({one_line(error)})"
        raise bad_root(root, f"{problem}; {remedy}") from error
    if len(wnids) != 200:
        raise bad_root(root, f"{files.path}/wnids.txt lists {len(wnids)} classes instead of 200")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    train, test = [], []
    for name in names:
        match name.split("/"):
            case ["train", wnid, "images", file] if wnid in labels and is_image(file):
                train.append((name, labels[wnid]))
    for line in annotations:
        match line.split("\t"):
            case [file, wnid, *_bounding_box] if wnid in labels:
                test.append((f"val/images/{file}", labels[wnid]))
            case _:
                where = files.path / "val/val_annotations.txt"
                raise bad_root(root, f"{where} has a line without a class of wnids.txt: {line!r}")
    for part, labelled in (("train", train), ("val", test)):
        if empty := sorted(set(labels.values()) - {label for _, label in labelled}):
            raise bad_root(root, f"{files.path}/{part} has no image of class {wnids[empty[0]]}")
    return train, test


def check_class_folders(root: Path) -> tuple[list[str], str]:
    """The class names of a folder of images, sorted, and the name of the folder of its test part.

    Both parts must have the same classes. The test part is `test/` if there are class folders in
    it, and otherwise `val/`, as in ImageNet, whose test images have no labels.

    Raises SettingError if `train/` or the test part is missing, if their classes differ, or if a
    class has no image.
    """
    expected = "expected are train/<class>/* and test/<class>/* (or val/<class>/*) in it"
    try:
        if not (root / "train").is_dir():
            raise bad_root(root, f"there is no folder {root / 'train'}; {expected}")
        found = {part: _class_folders(root / part) for part in ("train", "test", "val")}
        test = "test" if found["test"] else "val"
        if not found["train"]:
            raise bad_root(root, f"{root / 'train'} has no class folder; {expected}")
        if not found[test]:
            problem = "there is no test part, which is looked at once, at the end"
            raise bad_root(root, f"{problem}; {expected}")
        if found["test"] and found["val"]:
            log.info("%s is not used: val_fraction takes validation from train", root / "val")
        classes = {part: found[part] for part in ("train", test)}
        for folder in (root / part / name for part in classes for name in sorted(classes[part])):
            with os.scandir(folder) as entries:
                if not any(is_image(entry.name) and is_regular(entry) for entry in entries):
                    suffixes = ", ".join(IMAGE_SUFFIXES)
                    raise bad_root(root, f"{folder} has no image ({suffixes})")
    except OSError as error:
        raise bad_root(root, f"cannot be read ({one_line(error)})") from error
    if differing := sorted(classes["train"] ^ classes[test]):
        where = {name: part for part in classes for name in classes[part]}
        listed = ", ".join(f"{name} only in {where[name]}" for name in differing[:3])
        listed += f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise bad_root(root, f"train and {test} must have the same class folders, but: {listed}")
    return sorted(classes["train"]), test


def _class_folders(part: Path) -> set[str]:
    """The names of the folders in a part; none if it is missing."""
    if not part.is_dir():
        return set()
    return {path.name for path in part.iterdir() if path.is_dir() and path.name[0] != "."}


def class_folder_labels(
    files: Files, classes: Sequence[str], test: str
) -> tuple[Labelled, Labelled]:
    """The labelled images below `train/` and below the folder `test`."""
    labels = {name: label for label, name in enumerate(classes)}
    found: dict[str, list[tuple[str, int]]] = {"train": [], test: []}
    for name in files.names():
        match name.split("/"):
            case [part, folder, file] if folder in labels and is_image(file):
                found[part].append((name, labels[folder]))
    return found["train"], found[test]
