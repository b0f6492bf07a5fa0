"""AdamW whose moments lie in 8 bits each (Dettmers et al. 2022, "8-bit Optimizers via Block-wise
Quantization", arXiv 2110.02861).

bitsandbytes turns blocks of 256 numbers into codes of 8 bits with one scale each, on GPUs and on the CPU;
around that the step is torch's own, chunk by chunk, so that only one chunk's moments exist in float32 at a
time. What a checkpoint holds is float32 like any other engine's, and taken up again it gives the same codes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from birdsd.errors import Unsupported

if TYPE_CHECKING:
    from birdsd.schema import OptimConfig

MOMENTS = ("exp_avg", "exp_avg_sq")
_BLOCK = 256


@dataclass
class Packed:
    """Codes and the scale of each block: 2 x 1.016 bytes a parameter for both moments."""

    codes: Tensor  # uint8
    scales: Tensor  # float32


class AdamW8bit(torch.optim.Optimizer):
    """AdamW over flat float32 chunks. Groups with `packed` False keep their moments in float32: norms and
    biases are few, and their moments differ by more than a block's scale can follow.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], optim: OptimConfig) -> None:
        self._library = _bitsandbytes()
        betas = (float(optim.beta1 or 0), float(optim.beta2 or 0))
        super().__init__(
            groups, {"lr": 0.0, "betas": betas, "eps": float(optim.epsilon or 0), "packed": True}
        )
        self._maps: dict[tuple[str, torch.device], Tensor] = {}
        for group in self.param_groups:
            for chunk in group["params"]:
                self.state[chunk]["step"] = torch.zeros((), device=chunk.device)
                self.state[chunk]["packed"] = group["packed"]
                for kind in MOMENTS:
                    self._put(chunk, kind, torch.zeros_like(chunk.detach()))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step with the gradients in each chunk's `.grad`."""
        for group in self.param_groups:
            for chunk in group["params"]:
                self._step_chunk(group, chunk)

    def _step_chunk(self, group: dict[str, Any], chunk: nn.Parameter) -> None:
        """By itself, so that its moments are gone before those of the next are unpacked."""
        moments = [self.moment(chunk, kind) for kind in MOMENTS]
        adamw_step(group, chunk, moments, self.state[chunk]["step"])
        for kind, moment in zip(MOMENTS, moments, strict=True):
            self._put(chunk, kind, moment)

    def moment(self, chunk: nn.Parameter, kind: str) -> Tensor:
        """A moment of a chunk in float32; a copy where it is packed."""
        moment_state = self.state[chunk][kind]
        return moment_state if isinstance(moment_state, Tensor) else self._unpacked(kind, moment_state)

    def restore(self, chunk: nn.Parameter, kind: str, moment: Tensor) -> None:
        """Take up a moment of a chunk, float32, as `moment` gave it."""
        self._put(chunk, kind, moment)
        state = self.state[chunk][kind]
        if isinstance(state, Tensor):
            return
        # bitsandbytes rounds some numbers that a code stands for to the code beside it.
        codes = state.codes
        for beside in (codes - 1, codes + 1):
            wrong = self._unpacked(kind, state) != moment
            right = self._unpacked(kind, Packed(beside, state.scales)) == moment
            state.codes = torch.where(wrong & right, beside, state.codes)

    def _put(self, chunk: nn.Parameter, kind: str, moment: Tensor) -> None:
        if not self.state[chunk]["packed"]:
            self.state[chunk][kind] = moment
            return
        code = self._map(kind, chunk.device)
        codes, statistics = self._library.quantize_blockwise(moment, code=code, blocksize=_BLOCK)
        self.state[chunk][kind] = Packed(codes, statistics.absmax)

    def _unpacked(self, kind: str, packed: Packed) -> Tensor:
        code = self._map(kind, packed.codes.device)
        unpack = self._library.dequantize_blockwise
        found: Tensor = unpack(packed.codes, absmax=packed.scales, code=code, blocksize=_BLOCK)
        return found

    def _map(self, kind: str, device: torch.device) -> Tensor:
        """The 256 numbers that codes stand for. The signed ones are made to reach -1 as they reach 1: a block
        whose largest number is negative would otherwise shrink each time it is packed.
        """
        found = self._maps.get((kind, device))
        if found is None:
            found = self._library.create_dynamic_map(signed=kind == "exp_avg").to(device)
            if kind == "exp_avg":
                found[0] = -1.0
            self._maps[kind, device] = found
        return found


def adamw_step(
    group: Mapping[str, Any], chunk: nn.Parameter, moments: Sequence[Tensor], step: Tensor
) -> None:
    """Torch's fused AdamW on one flat chunk: changes it, its two moments and the count of its steps."""
    from torch.optim.adamw import adamw

    assert chunk.grad is not None
    adamw(
        [chunk], [chunk.grad], [moments[0]], [moments[1]], [], [step],
        fused=True, amsgrad=False, maximize=False, lr=group["lr"], eps=group["eps"],
        beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"],
    )  # fmt: skip


def _bitsandbytes() -> Any:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of kernels that are not used here
    try:
        import bitsandbytes.functional as library
    except ImportError as error:
        raise Unsupported(
            f"machine.optimizer_bits=8, and bitsandbytes cannot be imported: {error}",
            "it is an optional dependency for 8-bit optimizer states",
            'pip install "birdsd[eightbit]", or machine.optimizer_bits=32',
        ) from error
    return library
