"""What every column of a canvas is told: cross-attention in which a column looks at its own words alone.

The windows of a canvas may hold several prompts. Asking the network for each of them and choosing columns
(MultiDiffusion's regions) costs as many calls as there are prompts; here the words of all of them enter at
once, and a mask shows every column its own. Convolutions and self-attention still see the neighbours, so that
one region goes over into the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_HIDDEN = -1e4  # added to a score before the softmax; fits float16


@dataclass(frozen=True)
class Told:
    """`states` float [S, n, width]: texts as the UNet knows them; `which` int [columns]: the text that each
    column of a canvas is told."""

    states: Tensor
    which: np.ndarray

    @classmethod
    def same(cls, states: Tensor, columns: int) -> Told:
        """One text, [1, n, width], for all columns."""
        return cls(states, np.zeros(columns, np.int64))

    def windows(self, places: list[np.ndarray]) -> tuple[Tensor, np.ndarray]:
        """For windows, each given by its columns: what enters, [B, p * n, width], and int [B, w], which of
        the p texts of its window a column is told."""
        import torch

        held = [np.unique(self.which[place]) for place in places]
        most = max(map(len, held))
        entering, local = [], []
        for place, texts in zip(places, held, strict=True):
            filled = np.append(texts, np.full(most - len(texts), texts[0]))
            entering.append(self.states[torch.from_numpy(filled)].flatten(0, 1))
            local.append(np.searchsorted(texts, self.which[place]))
        return torch.stack(entering), np.stack(local)


class ColumnAttention:
    """Inside, cross-attention of the UNet keeps to what `tell` said last; without a word it is as usual."""

    def __init__(self, unet: Any, height: int) -> None:
        self._unet, self._height = unet, height
        self._local: Tensor | None = None  # [B, w]
        self._texts = 1
        self._masks: dict[int, Tensor] = {}
        self._before: dict[str, Any] = {}

    def __enter__(self) -> ColumnAttention:
        self._before = dict(self._unet.attn_processors)
        across = {name for name in self._before if ".attn2." in name}
        self._unet.set_attn_processor(
            {name: _Own(one, self) if name in across else one for name, one in self._before.items()}
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._unet.set_attn_processor(self._before)

    def tell(self, local: np.ndarray, texts: int) -> None:
        """Of the next windows: int [B, w], which of its `texts` texts each column is told."""
        import torch

        self._local, self._texts, self._masks = torch.from_numpy(local), texts, {}

    def mask(self, queries: Tensor, tokens: int) -> Tensor | None:
        """What is added to the scores of `queries` [B or 2B, h * w, C] against `tokens` of all texts."""
        if self._local is None or self._texts == 1:
            return None
        count = queries.shape[1]
        if count not in self._masks:
            own = self._at_resolution(count)
            own = own.repeat(len(queries) // len(own), 1)  # guided: without and with the prompt
            text = np.arange(tokens) // (tokens // self._texts)
            seen = own.numpy()[:, :, None] == text[None, None, :]
            self._masks[count] = queries.new_tensor(np.where(seen, 0.0, _HIDDEN))
        return self._masks[count]

    def _at_resolution(self, count: int) -> Tensor:
        """[B, count]: the text of every query, row by row, where the latents are smaller than they were."""
        import torch

        assert self._local is not None
        height, width = self._height, self._local.shape[1]
        factor = 1
        while -(-height // factor) * -(-width // factor) > count:
            factor *= 2
        rows, columns = -(-height // factor), -(-width // factor)
        if rows * columns != count:
            raise ValueError(f"{count} queries are no smaller picture of {height} x {width}")
        middle = torch.clamp(torch.arange(columns) * factor + factor // 2, max=width - 1)
        return self._local[:, middle].repeat(1, rows)


class _Own:
    """A processor of cross-attention that adds the mask."""

    def __init__(self, inner: Any, told: ColumnAttention) -> None:
        self._inner, self._told = inner, told

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None and attention_mask is None:
            attention_mask = self._told.mask(hidden_states, encoder_hidden_states.shape[1])
        out: Tensor = self._inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return out
