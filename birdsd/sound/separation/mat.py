"""soundscape_IR's models: a MATLAB file with the struct `save_nmf`, in and out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import Damaged, NotFound, Unsupported
from birdsd.files import atomic_write
from birdsd.sound.separation.matfile import read_struct
from birdsd.sound.separation.model import DECIBEL, MAGNITUDE, Bases, load_safetensors

_STRUCT, _VERSION = "save_nmf", "soundscape_IR V1.1"
_FIELDS = ("f", "W", "W_cluster", "k", "time_frame")
_MOST = 1000
_RULE = "a model of soundscape_IR is a .mat file with a struct save_nmf of f, W, W_cluster, k and time_frame"
_OVERLAP = 2  # the file does not say how far its windows overlap: this is soundscape_IR's default


def load_bases(path: Path) -> Bases:
    """A model from .safetensors, or from soundscape_IR's .mat. `UserError` says what is wrong with the
    file."""
    path = Path(path)
    if not path.is_file():
        raise NotFound(
            f"the separation model {path} does not exist",
            "",
            "birdsd run separate learn.SOURCE=FOLDER makes one",
        )
    if path.suffix.lower() == ".mat":
        return load_mat(path)
    if path.suffix.lower() == ".safetensors":
        return load_safetensors(path)
    raise Unsupported(
        f"{path} is no separation model", "it is a .safetensors file, or soundscape_IR's .mat file"
    )


def load_mat(path: Path) -> Bases:
    """The bases of a .mat model. Its sources have no names there: source1, source2, ..."""
    path = Path(path)
    stored = read_struct(path, _STRUCT)
    for name in _FIELDS:
        if not isinstance(stored.get(name), np.ndarray) or not stored[name].size:
            raise Damaged(f"{path}: {name} of its {_STRUCT} is missing, or holds no numbers", _RULE)
    hz = stored["f"].astype(np.float64).reshape(-1)
    weights = stored["W"].astype(np.float32)
    owner = stored["W_cluster"].astype(np.float64).reshape(-1)
    depth, count = (float(stored[name].reshape(-1)[0]) for name in ("time_frame", "k"))
    if not (1 <= depth <= _MOST and 1 <= count <= _MOST):
        raise Damaged(f"{path} is of {depth:g} frames and {count:g} sources", f"there are 1 to {_MOST}")
    depth, count = int(depth), int(count)
    sensible = weights.ndim == 2 and len(hz) > 1
    if not sensible or weights.shape[0] != depth * len(hz) or not np.isfinite(owner).all():
        raise Damaged(
            f"{path}: W is {list(weights.shape)}, for {len(hz)} frequencies, {depth} frames, {count} sources",
            _RULE,
        )
    if not (np.isfinite(hz).all() and hz[1] > hz[0]):
        raise Damaged(f"{path}: its frequencies do not rise", _RULE)
    pieces = weights.reshape(depth, len(hz), -1)[::-1]  # there the latest delay comes first
    weights = np.ascontiguousarray(pieces.reshape(depth * len(hz), -1))
    # Which unit the columns have is lost with the activations.
    weights = weights / np.maximum(weights.sum(axis=0, keepdims=True), 1e-12)
    kept = stored.get("names")
    names = tuple(map(_text, kept)) if isinstance(kept, list) else ()
    domain = MAGNITUDE if stored.get("domain") == MAGNITUDE else DECIBEL
    if len(set(filter(None, names))) != count:
        names = tuple(f"source{number + 1}" for number in range(count))
    return Bases(
        weights, names,
        owner.astype(np.int64), hz.astype(np.float32), float(1 / (hz[1] - hz[0])), _OVERLAP, depth, domain,
        {"from": path.name},
    )  # fmt: skip


def save_mat(bases: Bases, path: Path) -> Path:
    """Write bases as soundscape_IR reads them. Its own spectrograms are decibels above the background: of
    bases of another domain the file says so in a field that it does not read."""
    from scipy.io import savemat

    pieces = bases.weights.reshape(bases.depth, len(bases.hz), -1)[::-1]
    stored = {
        "platform": _VERSION, "f": bases.hz.astype(np.float64),
        "W": pieces.reshape(bases.weights.shape).astype(np.float64),
        "W_cluster": bases.owner.astype(np.float64), "k": len(bases.sources), "time_frame": bases.depth,
        "basis_num": bases.weights.shape[1], "domain": bases.domain,
        "names": np.array(bases.sources, dtype=object),
    }  # fmt: skip
    buffer = io.BytesIO()
    savemat(buffer, {_STRUCT: stored})
    with atomic_write(Path(path)) as stream:
        stream.write(buffer.getbuffer())
    return Path(path)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
