"""Many tensors copied at once, by several threads within host memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from birdsd.training.devices.cores import usable_cores

_PIECE_ELEMENTS = 8 << 20
# Below this the threads would cost more than they save.
_WORTH_THREADS_BYTES = 64 << 20


def copy_tensors(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """target.copy_(source) for every (target, source), both contiguous and of one shape.

    Within host memory several threads do it: one core does not fill the memory's bandwidth, and training
    stands still meanwhile.
    """
    total = sum(target.numel() * target.element_size() for target, _ in pairs)
    on_host = all(target.device.type == source.device.type == "cpu" for target, source in pairs)
    threads = _threads()
    if not on_host or threads == 1 or total < _WORTH_THREADS_BYTES:
        _copy(pairs)
        return
    shares: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(threads)]
    loads = [0] * threads
    for target, source in pairs:
        flat = target.view(-1).split(_PIECE_ELEMENTS), source.reshape(-1).split(_PIECE_ELEMENTS)
        for piece in zip(*flat, strict=True):
            least = loads.index(min(loads))
            shares[least].append(piece)
            loads[least] += piece[0].numel()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(_copy, shares))


def _copy(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for target, source in pairs:
        target.copy_(source, non_blocking=True)


def _threads() -> int:
    return min(4, usable_cores())
