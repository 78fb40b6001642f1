"""Write a trained network as one file for a machine without this package.

    python -m expanders.export RUN_DIR

The file takes images as pixels of 0 to 255 and normalises them itself. It is loaded and compared
with the network before this command ends. Formats:

    onnx         gathers and depthwise convolutions over live weights only, for any ONNX runtime
    torch        the same, for torch.export.load
    c            one C99 file without any dependency, for devices
    dense-onnx   dense kernels, zeros included, for tools that cannot use the gathers
    dense-torch  a state_dict that fits the dense network (for ResNets 18 to 152: torchvision's);
                 this one takes normalised images
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

from expanders.errors import SettingError

SUFFIXES = {
    "onnx": ".onnx",
    "torch": ".pt2",
    "c": ".c",
    "dense-onnx": "-dense.onnx",
    "dense-torch": "-dense.pt",
}


def main(arguments: list[str] | None = None) -> None:
    """Export as the command line says. Errors that a user can mend are one line."""
    parser = argparse.ArgumentParser(
        "python -m expanders.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run, or a .pt file")
    parser.add_argument("--format", choices=SUFFIXES, default="onnx")
    parser.add_argument("--output", type=Path, help="default: beside the weights, as network.*")
    parser.add_argument("--size", type=int, help="side of an image, where no config.json tells")
    options = parser.parse_args(arguments)
    try:
        _check_packages(options.format)
        folder = options.run if options.run.is_dir() else options.run.parent
        path = options.output or folder / f"network{SUFFIXES[options.format]}"
        if not path.parent.is_dir() or path.is_dir():
            raise SettingError("output", path, "must be a file in a folder that exists")
        _export(options.run, options.format, path, options.size)
    except (SettingError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")


def _check_packages(form: str) -> None:
    packages = ("onnx", "onnxscript", "onnxruntime") if form.endswith("onnx") else ()
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        remedy = f"needs {' and '.join(missing)}; pip install -e '.[export]'"
        raise SettingError("format", form, remedy)


def _export(run: Path, form: str, path: Path, size: int | None) -> None:
    from expanders.export import network  # after the checks: takes seconds

    trained = network.read(run, size)
    written = network.write(trained, form, path)
    print(f"{path}: {_megabytes(written.size)}", end="")
    if written.dense_size != written.size:
        ratio, dense = written.dense_size / written.size, _megabytes(written.dense_size)
        print(f"; the dense network takes {dense}, {ratio:.3g} times as much", end="")
    print(f"\nchecked: outputs of up to {written.largest:.3g} differ by {written.difference:.1e}")
    if form != "dense-torch":
        print(f"images: {trained.metadata()['images']}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB"


if __name__ == "__main__":
    main()
