"""Files of tensors, read without running anything that they hold, and written all or nothing.

A .safetensors file is tensors and nothing else. .pt, .ckpt and .bin are pickles: they are read with
`torch.load(weights_only=True)`, which makes tensors and plain containers and refuses every other object;
PyTorch's own containers of parameters come in as plain dicts.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, Unsupported, UserError, unknown_name
from birdsd.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".ckpt", ".pt", ".pth", ".bin")
DTYPES = ("fp32", "fp16")


@dataclass(frozen=True)
class Content:
    """What a file holds: tensors by name (a bare tensor has the name ""), text beside them, and of a pickle
    the plain values."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return self.path.stem


def read_content(path: Path) -> Content:
    """Read a .safetensors file or a pickle of tensors; `UserError` for what is neither, is damaged, or holds
    anything else."""
    if not path.exists():
        raise NotFound(f"{path} does not exist", "", "check the path")
    if path.is_dir():
        raise BadValue(f"{path} is a folder", "expected a file of weights", "name the file in it")
    kind = path.suffix.lower()
    if kind == ".safetensors":
        return _read_safetensors(path)
    if kind in PICKLES:
        return _read_pickle(path)
    raise unknown_name("kind of file", kind or path.name, (".safetensors", *PICKLES))


def _read_safetensors(path: Path) -> Content:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            return Content(path, tensors, dict(stored.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return Damaged(
        f"{path} ({path.stat().st_size:,} bytes) cannot be read: {_line(error)}",
        "the file is cut short, damaged, or of another kind than its name says",
        "fetch it again and compare its size with that at its source",
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_pickle(path: Path) -> Content:
    import torch

    allowed = getattr(torch.serialization, "safe_globals", None)  # from PyTorch 2.5 on
    try:
        with allowed(list(_STAND_INS)) if allowed else nullcontext():
            loaded = _opened(torch.load(path, map_location="cpu", weights_only=True), path)
    except pickle.UnpicklingError as error:
        raise _not_unpickled(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise _damaged(path, error) from error
    return _content(path, loaded)


def _not_unpickled(path: Path, error: pickle.UnpicklingError) -> UserError:
    """Why a pickle is not read. PyTorch's own words advise to switch the check off; they are not repeated."""
    text = str(error).partition("WeightsUnpickler error:")[2] or str(error)
    rule = (
        "only tensors and plain values are read from such a file: anything else could run a program that is "
    )
    rule += "hidden in it"
    if found := re.search(r"(?:GLOBAL|global|class|function)s?:? [`']?([\w.]+\.[\w.]+)", str(error)):
        return Unsupported(
            f"{path} holds {found.group(1)}",
            rule,
            "look for the same weights as .safetensors; or, where you trust the file, let the program that "
            "wrote it save its tensors alone, in a plain dict",
        )
    if "persistent_load of storage" in text:
        return Unsupported(
            f"{path} holds an object in the file format from before PyTorch 1.6",
            rule,
            "where you trust the file, load it with the program that wrote it and save it again",
        )
    reason = next((line for line in text.splitlines() if line.strip()), "")
    return _damaged(
        path, ValueError(reason if "weights_only" not in reason else "it is no pickle of tensors")
    )


class _StandIn:
    """Stands in for a class of PyTorch's that holds tensors by name: what a file says of it becomes plain
    attributes here, and no code of PyTorch's (or the file's) sees it."""


def _stand_in(name: str) -> type[_StandIn]:
    return type(name, (_StandIn,), {"__module__": "torch.nn.modules.container"})


# Older embeddings of AUTOMATIC1111's web UI and others keep their vectors in these.
_STAND_INS = (_stand_in("ParameterDict"), _stand_in("ParameterList"))


def _opened(value: Any, path: Path) -> Any:
    """A loaded value with dicts in the place of stand-ins."""
    if isinstance(value, Mapping):
        return {key: _opened(item, path) for key, item in value.items()}
    if not isinstance(value, _StandIn):
        return value
    attributes = vars(value)
    parameters, names = attributes.get("_parameters"), attributes.get("_keys")
    if not isinstance(parameters, Mapping):
        raise Unsupported(
            f"{path}: a {type(value).__name__} in it has no parameters", "", "fetch the file again"
        )
    plain = (
        {name: attributes[name] for name in names if name in attributes} if isinstance(names, Mapping) else {}
    )
    return {**plain, **parameters}


def _content(path: Path, loaded: Any) -> Content:
    from torch import Tensor

    if isinstance(loaded, Tensor):
        return Content(path, {"": loaded.detach()})
    if not isinstance(loaded, Mapping):
        raise Unsupported(
            f"{path} holds a {type(loaded).__name__}", "expected tensors by name", "name another file"
        )
    inner = loaded.get("state_dict")
    everything = {**loaded, **inner} if isinstance(inner, Mapping) else dict(loaded)
    everything.pop("state_dict", None)
    tensors = {str(k): v.detach() for k, v in everything.items() if isinstance(v, Tensor)}
    return Content(path, tensors, {}, {str(k): v for k, v in everything.items() if str(k) not in tensors})


def as_dtype(tensors: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Floating tensors as `dtype` ("fp32" or "fp16"), the others as they are; contiguous, on the CPU."""
    import torch

    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    wanted = torch.float16 if dtype == "fp16" else torch.float32
    made = {}
    for name, tensor in tensors.items():
        stored = tensor.detach().to("cpu", wanted if tensor.is_floating_point() else tensor.dtype)
        if stored.is_floating_point() and not bool(stored.isfinite().all()):
            raise Mismatch(
                f"{name} does not fit into {dtype}",
                "it holds numbers that are not finite, or become so in half precision (above 65504)",
                "export with --dtype fp32" if dtype == "fp16" else "train the model again: it has diverged",
            )
        made[name] = stored.contiguous()
    return made


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write and read back: names, shapes, types and values must be those that were given."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with atomic_write(path) as stream:
        save_file(dict(tensors), stream.name, {"format": "pt", **metadata})
    with safe_open(str(path), "pt") as stored:
        _compare(path, tensors, set(stored.keys()), stored.get_tensor)


def write_pickle(path: Path, value: Any, tensors: Mapping[str, Tensor]) -> None:
    """torch.save `value`, and read it back: its tensors must be `tensors`."""
    import torch

    with atomic_write(path) as stream:
        torch.save(value, stream)
    read = _read_pickle(path)
    nested = read.values.get("string_to_param")
    stored = dict(nested) if isinstance(nested, Mapping) else read.tensors
    _compare(path, tensors, set(stored), stored.__getitem__)


def _compare(path: Path, given: Mapping[str, Tensor], names: set[str], get: Callable[[str], Tensor]) -> None:
    import torch

    wrong = next(iter(sorted(given.keys() ^ names)), None)
    for name, tensor in given.items() if wrong is None else ():
        stored = get(name)
        if stored.dtype != tensor.dtype or not torch.equal(stored, tensor):
            wrong = name
            break
    if wrong is not None:
        path.unlink()
        raise Damaged(
            f"{path} was not written as it should be: {wrong} differs",
            "the file was read back and compared, and has been removed",
            "write it to another disk",
        )
