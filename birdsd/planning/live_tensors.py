"""How many bytes of tensors are alive, and how many at the most: one ruler for every device.

On a GPU torch counts its own allocations. On a CPU nobody does, and the resident memory of a process holds
much that is no tensor. Here every operation is looked at as it runs (`TorchDispatchMode`): a storage counts
from its first appearance until it is freed. What an operation needs only while it runs (the workspace of a
convolution) is not seen. It works on fake tensors too, where nothing is allocated at all.
"""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Use as a context. `bytes` is what is alive of what it has seen, `peak_bytes` the most at once.

    Tensors are seen when an operation makes or takes them; `hold` shows it others, and `hold_all` every one
    that there is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak_bytes = 0
        self._sizes: dict[int, tuple[int, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, made)):
            if isinstance(value, torch.Tensor):
                self.hold(value)
        return made

    def hold(self, tensor: torch.Tensor) -> None:
        """Count this tensor's storage from now on, once; nothing where it has none (sparse, functional)."""
        try:
            storage = tensor.untyped_storage()
        except (NotImplementedError, RuntimeError):
            return
        key = storage._cdata
        size = storage.nbytes()
        held, _ = self._sizes.get(key, (0, None))
        if held == size:
            return
        # A storage that was resized in place counts with its new size; the callback belongs to the storage.
        watch = weakref.ref(storage, partial(self._gone, key))
        self._sizes[key] = (size, watch)
        self.bytes += size - held
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def hold_all(self) -> None:
        """Count every tensor that Python knows of: weights and states made before."""
        gc.collect()
        for value in gc.get_objects():
            # By its type: asking some lazy objects for their class makes them act.
            if issubclass(type(value), torch.Tensor):
                self.hold(value)

    def restart_peak(self) -> None:
        """The peak is that of what comes."""
        self.peak_bytes = self.bytes

    def _gone(self, key: int, _: object) -> None:
        size, _ = self._sizes.pop(key, (0, None))
        self.bytes -= size
