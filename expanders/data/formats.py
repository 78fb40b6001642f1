"""How each data set names its files and labels, and the check that all of them are there."""

import hashlib
import os
import pickle
import tarfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from expanders.data.files import (
    IMAGE_SUFFIXES,
    MAX_FILE_BYTES,
    READ_ERRORS,
    Files,
    bad_root,
    is_regular,
    one_line,
)
from expanders.data.images import Images

Labelled = Sequence[tuple[str, int]]  # names of image files, each with its label


def read_cifar_batches(
    root: Path, folder: Path, archive: Path, checksums: Mapping[str, str]
) -> dict[str, Images]:
    """CIFAR's pickled batches, by name: from `folder` if it exists, otherwise from `archive`.

    `checksums` has the MD5 of every batch. Only a batch that has it is unpickled, as a pickle can
    run any code. Raises SettingError for one that is missing or differs.
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
    return {name: _unpickle_batch(contents[name]) for name in checksums}


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


def _unpickle_batch(content: bytes) -> Images:
    with warnings.catch_warnings():
        # The official files come from Python 2; recent NumPy warns of how they name a dtype.
        warnings.simplefilter("ignore")
        batch = pickle.loads(content, encoding="latin1")
    pixels = torch.from_numpy(batch["data"]).view(-1, 3, 32, 32)
    return Images(pixels, torch.tensor(batch["labels"]))


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


def check_class_folders(root: Path) -> list[str]:
    """The class names of a folder of images, sorted, after a check that the two parts agree.

    Raises SettingError if `root` lacks `train/` or `test/`, if their classes differ, or if a class
    has no image.
    """
    expected = "expected are train/<class>/* and test/<class>/* in it"
    classes = {}
    try:
        for part in ("train", "test"):
            if not (root / part).is_dir():
                raise bad_root(root, f"there is no folder {root / part}; {expected}")
            folders = [path for path in (root / part).iterdir() if path.is_dir()]
            classes[part] = {path.name for path in folders if not path.name.startswith(".")}
            if not classes[part]:
                raise bad_root(root, f"{root / part} has no class folder; {expected}")
            for name in sorted(classes[part]):
                with os.scandir(root / part / name) as entries:
                    has_image = any(is_image(e.name) and is_regular(e) for e in entries)
                if not has_image:
                    suffixes = ", ".join(IMAGE_SUFFIXES)
                    raise bad_root(root, f"{root / part / name} has no image ({suffixes})")
    except OSError as error:
        raise bad_root(root, f"cannot be read ({one_line(error)})") from error
    if differing := sorted(classes["train"] ^ classes["test"]):
        where = {name: part for part in classes for name in classes[part]}
        listed = ", ".join(f"{name} only in {where[name]}" for name in differing[:3])
        listed += f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise bad_root(root, f"train and test must have the same class folders, but: {listed}")
    return sorted(classes["train"])


def class_folder_labels(files: Files, classes: Sequence[str]) -> tuple[Labelled, Labelled]:
    """The labelled images below `train/` and below `test/`."""
    labels = {name: label for label, name in enumerate(classes)}
    found: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for name in files.names():
        match name.split("/"):
            case [part, folder, file] if folder in labels and is_image(file):
                found[part].append((name, labels[folder]))
    return found["train"], found["test"]


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
