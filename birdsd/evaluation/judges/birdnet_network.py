"""BirdNET's network in the TFLite interpreter, with the embedding as an output beside the logits.

The file gives logits alone. The interpreter can keep every tensor in between, at 240 MiB for each window of
a batch; instead the embedding is listed among the outputs of the flatbuffer, in memory, by its name. The
numbers are the same bit for bit, and it costs nothing.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import NotFound, Unsupported
from birdsd.files import muted

EMBEDDING = "model/GLOBAL_AVG_POOL/Mean"
# Fields of TFLite's schema, by their place in the tables.
_MODEL_SUBGRAPHS, _SUBGRAPH_TENSORS, _SUBGRAPH_OUTPUTS, _TENSOR_NAME = 2, 0, 2, 3


def check_runtime() -> None:
    """Refuse a runtime that is installed and does not load, as one whose libraries are missing."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except (ImportError, OSError, AttributeError) as error:
        raise Unsupported(
            f"the package ai-edge-litert is installed but cannot be loaded: {error}",
            "it runs the judge",
            "pip install --force-reinstall ai-edge-litert",
        ) from error


class Network:
    """One window at a time: a batch is no faster on one thread, and its rest would need another shape."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        from ai_edge_litert.interpreter import Interpreter

        content = with_output(model.read_bytes(), EMBEDDING, str(model))
        with muted(2):  # it tells the terminal of its delegates
            self._interpreter: Any = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        outputs = {output["name"]: output["index"] for output in self._interpreter.get_output_details()}
        self._embedding = outputs.pop(EMBEDDING)
        (self._logits,) = outputs.values()

    def __call__(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 [samples] -> its logits [classes] and its embedding [width]."""
        self._interpreter.set_tensor(self._input, window[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._logits)[0], self._interpreter.get_tensor(self._embedding)[0]


def with_output(model: bytes, name: str, path: str = "the model") -> bytes:
    """A TFLite model whose first graph also puts out the tensor of this name, as its last output.

    The longer list of outputs stands at the end of the file; nothing else moves. `UserError` for a model
    without such a tensor.
    """
    graph = _follow(model, _entries(model, _field(model, _follow(model, 0), _MODEL_SUBGRAPHS))[0])
    tensors = [_follow(model, at) for at in _entries(model, _field(model, graph, _SUBGRAPH_TENSORS))]
    names = [_text(model, _field(model, tensor, _TENSOR_NAME)) for tensor in tensors]
    if names.count(name) != 1:
        raise NotFound(f"{path} has no tensor '{name}'", "the embedding is found by its name")
    listed = _field(model, graph, _SUBGRAPH_OUTPUTS)
    outputs = [_uint32(model, at) for at in _entries(model, listed)] + [names.index(name)]
    end = len(model) + -len(model) % 4
    longer = bytearray(model) + bytes(end - len(model))
    longer += struct.pack(f"<{len(outputs) + 1}I", len(outputs), *outputs)
    struct.pack_into("<I", longer, listed, end - listed)
    return bytes(longer)


def _uint32(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _follow(data: bytes, at: int) -> int:
    """Where the offset at this place leads to."""
    return at + _uint32(data, at)


def _field(data: bytes, table: int, number: int) -> int:
    """The place of a field of a table, which is known to be there."""
    layout = table - int(struct.unpack_from("<i", data, table)[0])
    return table + int(struct.unpack_from("<H", data, layout + 4 + 2 * number)[0])


def _entries(data: bytes, at: int) -> list[int]:
    """The places of the entries of a vector of four-byte values or offsets."""
    vector = _follow(data, at)
    return [vector + 4 + 4 * i for i in range(_uint32(data, vector))]


def _text(data: bytes, at: int) -> str:
    start = _follow(data, at)
    return data[start + 4 : start + 4 + _uint32(data, start)].decode("utf-8", "replace")
