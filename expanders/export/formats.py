"""File formats: how a network of plain operators is written, and how its file is run."""

import io
import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

Metadata = Mapping[str, Any]


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing that the tools that write files print meanwhile; what they cannot do, they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def trace(network: nn.Module, height: int, width: int) -> ExportedProgram:
    """The network as a graph of operators, for any number of images of height x width pixels."""
    # One number, seen as two images: the example is stored in the file.
    images = torch.zeros(1, 1, 1, 1).expand(2, 3, height, width)
    batch = torch.export.Dim("batch", max=2**31 - 1)  # torch 2.6 needs a bound
    return torch.export.export(network, (images,), dynamic_shapes=({0: batch},), strict=False)


def onnx_file(program: ExportedProgram, metadata: Metadata) -> bytes:
    """An ONNX file: input `images`, output `logits`; the metadata as properties of the model."""
    import onnx

    exported = torch.onnx.export(program, dynamo=True, verbose=False)
    assert exported is not None
    model = exported.model_proto
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:]
    for node in graph.node:  # where in Python each operator came from: longer than most kernels
        node.name = node.doc_string = ""
        del node.metadata_props[:]
    _narrow_gathers(graph)
    _rename(graph, graph.input[0], "images")
    _rename(graph, graph.output[0], "logits")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _rename(graph: Any, end: Any, name: str) -> None:
    """Name an input or output of the graph, and its first dimension `batch`."""
    for node in graph.node:
        for values in (node.input, node.output):
            values[:] = [name if value == end.name else value for value in values]
    end.name = name
    end.type.tensor_type.shape.dim[0].dim_param = "batch"


def _narrow_gathers(graph: Any) -> None:
    """Store the channels to gather in 32 bits; the exporter widens them to 64."""
    from onnx import numpy_helper

    gathers = {node.input[1] for node in graph.node if node.op_type == "Gather"}
    others = {v for n in graph.node for v in (n.input if n.op_type != "Gather" else n.input[:1])}
    for tensor in graph.initializer:
        if tensor.name in gathers - others:
            channels = numpy_helper.to_array(tensor).astype(np.int32)
            tensor.CopyFrom(numpy_helper.from_array(channels, tensor.name))


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """Outputs of an ONNX file in onnxruntime, on the CPU."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def torch_file(program: ExportedProgram, metadata: Metadata) -> bytes:
    """A file for `torch.export.load`; the metadata as its extra file `metadata.json`."""
    for node in program.graph.nodes:  # where in Python each operator came from
        for key in ("stack_trace", "nn_module_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)
    file, small = io.BytesIO(), io.BytesIO()
    torch.export.save(program, file, extra_files={"metadata.json": json.dumps(metadata)})
    # The graph is JSON, larger than a sparse network's weights. Tensors stay as they are, because
    # readers may map them into memory.
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(small, "w") as new:
        for entry in old.infolist():
            is_json = entry.filename.endswith(".json")
            method = zipfile.ZIP_DEFLATED if is_json else zipfile.ZIP_STORED
            new.writestr(entry.filename, old.read(entry), method)
    return small.getvalue()


def run_torch(path: Path, images: Tensor) -> Tensor:
    """Outputs of a file that `torch_file` wrote."""
    with path.open("rb") as file, torch.no_grad():
        return torch.export.load(file).module()(images)  # type: ignore[no-any-return]


def state_file(network: nn.Module, twin: nn.Module) -> bytes:
    """The state_dict of `network` as `twin` loads it, for `torch.load`.

    `twin` is the dense network that `network` was wired from. Biases that a sparse layer leaves to
    its batch norm are zero.
    """
    state = network.state_dict()
    filled = twin.state_dict()  # it knows the versions of its modules, which some ask for
    filled.update((k, state.get(k, torch.zeros_like(v))) for k, v in twin.state_dict().items())
    file = io.BytesIO()
    torch.save(filled, file)
    return file.getvalue()


def run_state(path: Path, twin: nn.Module, images: Tensor) -> Tensor:
    """Outputs of the dense network `twin` with the weights that `state_file` wrote."""
    twin.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        return twin.eval()(images)  # type: ignore[no-any-return]
