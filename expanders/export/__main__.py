"""Write a trained network as one file for a machine without this package.

    python -m expanders.export RUN_DIR

The file takes images as pixels of 0 to 255 and normalises them itself. It is loaded and compared
with the network before this command ends, and ONNX and C files are measured beside the dense
network. Formats:

    onnx         gathers and depthwise convolutions over live weights, or dense kernels, whichever
                 is faster in each layer; for any ONNX runtime
    c            one C99 file in float32 that needs libm alone, for devices
    torch        operators as in onnx, for torch.export.load
    dense-onnx   dense kernels, zeros included, for tools that cannot use the gathers
    dense-torch  a state_dict that fits the dense network (for ResNets 18 to 152: torchvision's);
                 this one takes normalised images
"""

import argparse
from pathlib import Path
from subprocess import CalledProcessError
from typing import get_args

from expanders.errors import SettingError
from expanders.export import SUFFIXES, Dtype, Form
from expanders.runs.folders import BEST, CHECKPOINTS


def main(arguments: list[str] | None = None) -> None:
    """Export as the command line says. Errors that a user can mend are one line."""
    parser = argparse.ArgumentParser(
        "python -m expanders.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run, or a .pt file")
    parser.add_argument("--format", choices=get_args(Form), default="onnx")
    parser.add_argument(
        "--dtype", choices=get_args(Dtype), default="float32", help="int8: smaller; for onnx"
    )
    parser.add_argument("--output", type=Path, help="default: beside the weights, as network.*")
    parser.add_argument("--size", type=int, help="side of an image, where no config.json tells")
    parser.add_argument("--model", help="function of another package that builds the network")
    parser.add_argument("--source", help="function of another package that reads the images")
    parser.add_argument(
        "--images", type=int, default=1000, help="to measure accuracy on, at most (default: 1000)"
    )
    options = parser.parse_args(arguments)
    try:
        _export(options)
    except (SettingError, OSError, CalledProcessError) as error:
        told = getattr(error, "stderr", None) or str(error)  # what a compiler says
        parser.exit(2, f"{parser.prog}: {' '.join(told.split())}\n")


def _export(options: argparse.Namespace) -> None:
    form, dtype = options.format, options.dtype
    if options.images < 0:
        raise SettingError("images", options.images, "must be 0 or more")
    folder = options.run if options.run.is_dir() else options.run.parent
    suffix = SUFFIXES[form] if dtype == "float32" else f"-{dtype}{SUFFIXES[form]}"
    path = options.output or folder / f"network{suffix}"
    if not path.parent.is_dir() or path.is_dir():
        raise SettingError("output", path, "must be a file in a folder that exists")
    endings = {name: Path(f"network{each}").suffix for name, each in SUFFIXES.items()}
    others = {*endings.values()} - {endings[form]}
    if path.suffix in others or (form == "c" and path.suffix != ".c"):
        remedy = f"the name of a file of format {form} ends in {endings[form]}"
        raise SettingError("output", path, remedy)
    if path.name in (BEST, *CHECKPOINTS) and path.exists():
        raise SettingError("output", path, "is a run's checkpoint; choose another name")

    from expanders.export import comparison, network, writing  # take seconds

    writing.check(form, dtype)
    trained = network.read(options.run, options.size, options.model, options.source)
    written = writing.write(trained, form, path, dtype, options.images)
    print(f"{path}: {written.size / 1e6:.3g} MB")
    for line in written.lines():
        print(line)
    if form != "dense-torch":
        print(f"images: {trained.metadata()['images']}")
    if form == "torch":
        dense = len(writing.encode(trained, form, dense=True))
        print(f"the dense network takes {dense / 1e6:.3g} MB")
    if form in ("onnx", "c", "dense-onnx"):
        for line in comparison.compare(trained, written, form, path, options.images):
            print(line)


if __name__ == "__main__":
    main()
