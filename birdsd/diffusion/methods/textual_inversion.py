"""method=textual_inversion: a new word for each species, or one for them all; only its vectors learn (Gal et
al. 2022, arXiv 2208.01618).

Gradients flow through the frozen UNet and the frozen text encoder into the rows of the new tokens. What
one takes away is a few kilobytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from birdsd.diffusion import export
from birdsd.diffusion.adapters import write_adapter
from birdsd.diffusion.generation.words import apply_words
from birdsd.diffusion.learning.base import Modules
from birdsd.diffusion.learning.denoiser import DenoisingLearner
from birdsd.diffusion.learning.denoising import DenoisingMethod, Networks, check_pretrained
from birdsd.diffusion.method_configs import TextualInversionConfig
from birdsd.diffusion.networks.token_vectors import (
    TokenRows,
    add_tokens,
    embedding_files,
    expand_tokens,
    first_vector,
    install_rows,
    split_rows,
    write_embeddings,
)
from birdsd.errors import BadValue, NothingLeft, unknown_name
from birdsd.method_facts import settings_of
from birdsd.shards.balance import species_of

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex

KINDS = ("per_species", "style")


class TextualInversionMethod(DenoisingMethod):
    """New tokens for a model that stays as it is; see `DenoisingMethod`."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        method = settings_of(config.method, TextualInversionConfig)
        check_pretrained(config)
        if method.tokens not in KINDS:
            raise unknown_name("method.tokens", method.tokens, KINDS)
        if method.vectors < 1:
            raise BadValue(
                f"method.vectors={method.vectors}", "a token has at least one vector", "set method.vectors=1"
            )
        super().__init__(config, index)
        self._words = {} if method.tokens == "style" else token_words(species_of(index, "train"))
        if method.tokens == "per_species" and not self._words:
            raise NothingLeft(
                f"the shards in {index.folder} name no species",
                "method.tokens=per_species creates a token for each",
                "set method.tokens=style for one token, or label the recordings and prepare them again",
            )
        names = list(self._words.values()) or [method.style_token]
        self.tokens = dict.fromkeys(names, int(method.vectors))
        embedding_files(names)

    @property
    def settings(self) -> TextualInversionConfig:
        """The section `method`."""
        return settings_of(self.config.method, TextualInversionConfig)

    def learner(self, networks: Networks, dtype: torch.dtype) -> DenoisingLearner:
        """Frozen networks in `dtype`; the rows of the new tokens in float32 are all that learns."""
        unet, text, tokenizer = networks.unet, networks.text_encoder, networks.tokenizer
        table = text.get_input_embeddings().weight
        start, self._start_tokens = first_vector(tokenizer, table, self.settings.initial_word)
        first = add_tokens(tokenizer, self.tokens)
        unet.requires_grad_(False).to(dtype)
        text.requires_grad_(False).to(dtype)
        install_rows(text, first, start.repeat(sum(self.tokens.values()), 1))
        return DenoisingLearner(unet.train(), text.train(), self.denoising)

    def text_learns(self, networks: Networks) -> bool:
        """Its new tokens do."""
        return True

    def setup(
        self, modules: Modules, share: Callable[[Sequence[int]], list[int]], alive: Callable[[], None]
    ) -> list[str]:
        """Nothing to make; says which words are taught and what they begin as."""
        lines = super().setup(modules, share, alive)
        word, shown = self.settings.initial_word, ", ".join(list(self.tokens)[:4])
        more = f" and {len(self.tokens) - 4} more" if len(self.tokens) > 4 else ""
        begin = f"'{word}'" + (
            f", the mean of its {self._start_tokens} tokens" if self._start_tokens > 1 else ""
        )
        vectors = f"{self.settings.vectors} vector(s) each"
        return [*lines, f"new words: {shown}{more}; {vectors}, initialised as {begin}"]

    def wording(self, modules: Modules, text: str) -> str:
        """Species become their tokens; a style's token is put behind the text. The empty text stays empty:
        guidance leads away from it.
        """
        style = self.settings.style_token
        if self._words:
            text = apply_words(text, self._words)
        elif text and style.lower() not in text.lower():
            text = f"{text}, {style}"
        return expand_tokens(text, self.tokens)

    def words(self, modules: Modules) -> dict[str, str]:
        """The words that stand for species: their tokens."""
        return dict(self._words)

    def rows(self, modules: Modules) -> TokenRows:
        """The part that learns."""
        rows: TokenRows = self.text_encoder(modules).get_input_embeddings()
        return rows

    def about(self, modules: Modules) -> dict[str, Any]:
        """The tokens and what they began as."""
        return {"tokens": self.tokens, "initial_word": self.settings.initial_word}

    def export(self, modules: Modules, folder: Path) -> Path:
        """One file a token, with codec.json, rights and the base that they belong to."""
        vectors = split_rows(self.rows(modules).rows, self.tokens)

        def write(partial: Path) -> None:
            write_embeddings(partial, vectors)

        return write_adapter(
            folder,
            "embedding",
            write,
            codec=self.codec,
            heard=export.training_set(self.index),
            about=self.facts(modules),
            base=str(self.config.model.source),
            words=self.words(modules),
        )


def token_words(species: Sequence[str]) -> dict[str, str]:
    """Species -> token: "Townsend's Warbler" -> "<townsends-warbler>"; a second one of the same spelling gets
    a number.
    """
    words: dict[str, str] = {}
    for name in sorted(species):
        plain = re.sub(r"[^\w]+", "-", re.sub(r"['\u2019`]", "", name.lower())).replace("_", "-").strip("-")
        token, number = f"<{plain or 'bird'}>", 1
        while token in words.values():
            number += 1
            token = f"<{plain or 'bird'}-{number}>"
        words[name] = token
    return words
