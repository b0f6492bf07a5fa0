"""The bytes of live tensors, and their peak: one measure for every device.

On a GPU torch counts its allocations. On a CPU it does not, and the resident memory of a process includes
much else. Here every operation is observed as it runs (`TorchDispatchMode`): a storage counts from its
first appearance until it is freed. Temporary memory inside an operation (the workspace of a convolution) is
not seen. It also works on fake tensors, where nothing is allocated at all.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LiveTensors(TorchDispatchMode):
    """A context manager. `bytes` counts the live tensors that it has seen, `peak_bytes` their maximum.

    Tensors are seen when an operation creates or takes them; `hold` adds others, and `hold_all` all
    existing ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = 0
        self._sizes: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in (args, kwargs, result):
            for tensor in _tensors(part):
                self.hold(tensor)
        return result

    def hold(self, tensor: torch.Tensor) -> None:
        """Count this tensor's storage from now on, once; nothing where it has none (sparse, symbolic)."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return
        key = storage._cdata
        size = storage.nbytes()
        if not isinstance(size, int):
            # What an exporter traced with a batch of any size, and keeps: nothing is allocated for it, and
            # comparing its symbol would ask a trace that has ended.
            return
        users, _ = self._sizes.get(key, (0, None))
        if users == size:
            return
        # A storage that was resized in place counts with its new size; the callback belongs to the storage.
        watch = weakref.ref(storage, partial(self._gone, key))
        self._sizes[key] = (size, watch)
        self.bytes += size - users
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def hold_all(self) -> None:
        """Count every existing tensor: weights and states created before."""
        gc.collect()
        for value in gc.get_objects():
            # By its type: asking some lazy objects for their class makes them act.
            if issubclass(type(value), torch.Tensor):
                self.hold(value)

    def restart_peak(self) -> None:
        """Start a new peak from here on."""
        self.peak_bytes = self.bytes

    def _gone(self, key: int, _: object) -> None:
        size, _ = self._sizes.pop(key, (0, None))
        self.bytes -= size


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what an operation takes or gives: it nests no more than lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
