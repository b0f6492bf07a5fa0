"""Parameters as views of a few large tensors.

One fused update, one norm, one all-reduce and one copy to host memory then serve hundreds of small
tensors, and the layout depends on the parameters alone: DistributedDataParallel rebuilds its buckets
after the first backward, so that with more than two ranks a resumed run would add in another order
and drift from the run that was never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_CHUNK_ELEMENTS = (
    1 << 25
)  # 128 MiB of fp32: large enough to be fast, small enough to send while backward goes on
_ALIGN_ELEMENTS = 64  # 256 bytes, as GPU libraries like a weight to begin


@dataclass(frozen=True)
class _Place:
    chunk: int
    offset: int
    shape: torch.Size


class FlatParameters:
    """Moves the values of `groups` of named parameters into chunks; each parameter becomes a view of one.

    `chunks[i]` is an `nn.Parameter` whose `.grad` is the memory that the parameters' gradients view.
    A chunk holds parameters of one group only: `group_of[i]` says which.
    """

    def __init__(
        self, groups: Sequence[Sequence[tuple[str, nn.Parameter]]], chunk_elements: int = _CHUNK_ELEMENTS
    ) -> None:
        self._places: dict[str, _Place] = {}
        self.chunks: list[nn.Parameter] = []
        self.group_of: list[int] = []
        self._members: list[list[tuple[str, nn.Parameter]]] = []
        for number, group in enumerate(groups):
            for members in _cut(group, chunk_elements):
                self._add_chunk(number, members)

    @torch.no_grad()
    def _add_chunk(self, group: int, members: list[tuple[str, nn.Parameter]]) -> None:
        size = sum(_padded(parameter.numel()) for _, parameter in members)
        device = members[0][1].device
        chunk = nn.Parameter(torch.zeros(size, dtype=torch.float32, device=device))
        chunk.grad = torch.zeros_like(chunk)
        offset = 0
        for name, parameter in members:
            place = self._places[name] = _Place(len(self.chunks), offset, parameter.shape)
            view = _view(chunk.detach(), place)
            view.copy_(parameter)
            parameter.data = view
            parameter.grad = _view(chunk.grad, place)
            offset += _padded(parameter.numel())
        self.chunks.append(chunk)
        self.group_of.append(group)
        self._members.append(members)

    @property
    def names(self) -> list[str]:
        return list(self._places)

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients' memory, chunk by chunk."""
        return [chunk.grad for chunk in self.chunks]  # type: ignore[misc]

    def view(self, tensor: Tensor, name: str) -> Tensor:
        """The part of `tensor`, as large as a parameter's chunk (weights, moments, averages), that is its."""
        return _view(tensor, self._places[name])

    def span(self, first: str, last: str) -> slice:
        """Where in their chunk the parameters from `first` to `last` lie."""
        begin, end = self._places[first], self._places[last]
        return slice(begin.offset, end.offset + end.shape.numel())

    def zero_gradients(self) -> None:
        """Before a step. The gradients stay where they are: setting them to None would break the views."""
        torch._foreach_zero_(self.gradients)

    def members(self, chunk: int) -> list[tuple[str, nn.Parameter]]:
        """The parameters that live in a chunk."""
        return self._members[chunk]


class GradientSum:
    """Adds the gradients of all ranks, chunk by chunk, while backward is still going on.

    The chunks and the order in which they are sent depend on the parameters alone, so that the sums
    are the same bits in every process that ever takes up the run.
    """

    def __init__(self, flat: FlatParameters) -> None:
        self._flat = flat
        self._active = False
        self._missing: list[int] = []
        self._next = -1
        self._works: list[dist.Work] = []
        self._handles: list[Any] = []
        for chunk in range(len(flat.chunks)):
            for _, parameter in flat.members(chunk):
                hook = self._hook(chunk)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def begin(self) -> None:
        """Before the backward of the last micro-batch: from here on a complete chunk is sent."""
        self._missing = [len(self._flat.members(chunk)) for chunk in range(len(self._flat.chunks))]
        # The last parameters get their gradients first.
        self._next = len(self._flat.chunks) - 1
        self._active = True

    def finish(self, begun: bool = True) -> None:
        """After it: send what is left (parameters that the loss did not reach) and wait for all. Where the
        step broke off, maybe before `begin` (`begun` is False), the sums only keep the ranks together.
        """
        if not begun and not self._active:
            self.begin()
        self._active = False
        while self._next >= 0:
            self._send()
        for work in self._works:
            work.wait()
        self._works.clear()

    def close(self) -> None:
        """Let the parameters go of this: they would keep it, and all that it holds, for ever."""
        for handle in self._handles:
            handle.remove()

    def _hook(self, chunk: int) -> Callable[[Tensor], None]:
        def reached(_: Tensor) -> None:
            if not self._active:
                return
            self._missing[chunk] -= 1
            if self._missing[chunk] < 0:
                raise RuntimeError(
                    "a parameter got two gradients in one backward: checkpoint gradients without re-entry"
                )
            while self._next >= 0 and self._missing[self._next] == 0:
                self._send()

        return reached

    def _send(self) -> None:
        work = dist.all_reduce(self._flat.gradients[self._next], async_op=True)
        assert work is not None
        self._works.append(work)
        self._next -= 1


def _padded(elements: int) -> int:
    return -(-elements // _ALIGN_ELEMENTS) * _ALIGN_ELEMENTS


def _view(tensor: Tensor, place: _Place) -> Tensor:
    return tensor[place.offset : place.offset + place.shape.numel()].view(place.shape)


def _cut(group: Sequence[tuple[str, nn.Parameter]], limit: int) -> list[list[tuple[str, nn.Parameter]]]:
    chunks: list[list[tuple[str, nn.Parameter]]] = []
    size = 0
    for name, parameter in group:
        elements = _padded(parameter.numel())
        if not chunks or size + elements > limit:
            chunks.append([])
            size = 0
        chunks[-1].append((name, parameter))
        size += elements
    return chunks
