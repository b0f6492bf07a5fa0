"""New words of a CLIP text encoder: the tokens, their vectors, and nothing else that learns.

Textual inversion (Gal et al. 2022, arXiv 2208.01618) learns vectors of new tokens under frozen weights.
They stand beside the table of the known ones, so there is neither a gradient nor an optimizer's state for
49,408 rows that never change, and nothing to put back after each step. A token of several vectors follows
diffusers' convention: TOKEN, TOKEN_1, TOKEN_2, ...
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from birdsd.errors import AlreadyThere, BadValue, Mismatch, UnknownName
from birdsd.files import safe_name

FOLDER = "embeddings"  # of an export, one file a token


class TokenRows(nn.Module):
    """Stands in for a text model's token embedding: a frozen table, and rows that learn behind it.

    Tokens from number `first` on read `rows` [new tokens, width], float32; those below read `table`.
    """

    def __init__(self, table: nn.Embedding, first: int, rows: Tensor) -> None:
        super().__init__()
        self.table = table.requires_grad_(False)
        self.first = first
        self.rows = nn.Parameter(rows.detach().clone().float())

    def forward(self, input_ids: Tensor) -> Tensor:
        """int64 [B, n] -> [B, n, width] in the table's dtype."""
        new = input_ids >= self.first
        known = self.table(input_ids.masked_fill(new, 0))
        learnt = functional.embedding((input_ids - self.first).clamp(min=0), self.rows)
        return torch.where(new[..., None], learnt.to(known.dtype), known)

    def folded(self) -> nn.Embedding:
        """An ordinary embedding with the rows at their places; all other rows are the table's to the bit."""
        with torch.no_grad():
            weight = self.table.weight[: self.first]
            whole = torch.cat([weight, self.rows.to(weight.dtype)])
        return nn.Embedding.from_pretrained(whole, freeze=True)


def new_names(tokens: Mapping[str, int]) -> list[str]:
    """Every token of `tokens` (name -> vectors) with those for its further vectors, in order."""
    return [
        f"{token}_{number}" if number else token
        for token, vectors in tokens.items()
        for number in range(vectors)
    ]


def add_tokens(tokenizer: Any, tokens: Mapping[str, int]) -> int:
    """Add `tokens` (name -> vectors) behind those that the tokenizer knows; returns the first new number.

    Refuses a name that stands for something already (a tokenizer of CLIP knows no capital letters), that
    is empty or has blanks, and fewer vectors than 1 or more than a text may have.
    """
    known = {name.lower() for name in tokenizer.get_vocab()}
    room = tokenizer.model_max_length - 2
    for token, vectors in tokens.items():
        if not token or re.search(r"\s", token):
            raise BadValue(
                f"the token '{token}' is empty or has blanks", "it is one word", "take one like <birdsong>"
            )
        if not 1 <= vectors <= room:
            raise BadValue(
                f"the token {token} has {vectors} vectors",
                f"it needs at least 1, and a text of this model has room for {room}",
                "set method.vectors to 1, 2 or 4",
            )
    for name in new_names(tokens):
        if name.lower() in known or f"{name.lower()}</w>" in known:
            raise AlreadyThere(
                f"the token {name} exists already",
                "each token has one meaning, and this one would lose its own",
                "choose another name, in angle brackets for instance: <my-bird>",
            )
        known.add(name.lower())
    first = len(tokenizer)
    tokenizer.add_tokens(new_names(tokens))
    return first


def first_vector(tokenizer: Any, table: Tensor, word: str) -> tuple[Tensor, int]:
    """The vector [width] of a word that is known, and of how many tokens it is: their mean where there are
    several.
    """
    numbers = tokenizer(word, add_special_tokens=False).input_ids
    if not numbers or tokenizer.unk_token_id in numbers:
        raise UnknownName(
            f"method.initial_word='{word}' is not a word that the model's tokenizer knows",
            "the new vectors are initialised from a word",
            "take a plain word, like method.initial_word=bird",
        )
    return table[torch.tensor(numbers, device=table.device)].float().mean(0), len(numbers)


def install_rows(text_encoder: Any, first: int, rows: Tensor) -> TokenRows:
    """Put `rows` [new tokens, width] behind token `first` of a text encoder, in place of its embedding."""
    embedding_rows = TokenRows(text_encoder.get_input_embeddings(), first, rows)
    text_encoder.set_input_embeddings(embedding_rows)
    return embedding_rows


def fold_rows(text_encoder: Any) -> None:
    """Turn a text encoder with `TokenRows` into an ordinary one with a larger table."""
    present = text_encoder.get_input_embeddings()
    if isinstance(present, TokenRows):
        embedding = present.folded()
        text_encoder.set_input_embeddings(embedding)
        text_encoder.config.vocab_size = embedding.num_embeddings


def split_rows(rows: Tensor, tokens: Mapping[str, int]) -> dict[str, Tensor]:
    """`rows` [new tokens, width] by token: float32 [vectors, width] each, on the CPU."""
    pieces = rows.detach().float().cpu().split(list(tokens.values()))
    return {token: piece.contiguous() for token, piece in zip(tokens, pieces, strict=True)}


def write_embeddings(folder: Path, vectors: Mapping[str, Tensor]) -> list[Path]:
    """One file a token in FOLDER/embeddings, in the form that diffusers reads: {token: [vectors, width]}."""
    from safetensors.torch import save_file

    paths = embedding_files(vectors)
    (Path(folder) / FOLDER).mkdir(parents=True, exist_ok=True)
    for token, name in paths.items():
        save_file({token: vectors[token]}, str(Path(folder) / FOLDER / name), metadata={"format": "pt"})
    return [Path(folder) / FOLDER / name for name in paths.values()]


def embedding_files(tokens: Sequence[str] | Mapping[str, Any]) -> dict[str, str]:
    """Token -> the name of its file; two tokens that would share one are refused."""
    names = {token: f"{safe_name(token)}.safetensors" for token in tokens}
    seen: dict[str, str] = {}
    for token, name in names.items():
        other = seen.setdefault(name.lower(), token)
        if other != token:
            raise Mismatch(
                f"the tokens {other} and {token} would have one file, {name}",
                "a token's file bears its name",
                "choose names that differ in letters or digits",
            )
    return names


def expand_tokens(text: str, tokens: Mapping[str, int]) -> str:
    """`text` with each token of several vectors followed by those for the others; done once where it is done
    again.

    >>> expand_tokens("a <wren> in rain", {"<wren>": 3})
    'a <wren> <wren>_1 <wren>_2 in rain'
    """
    for token, vectors in tokens.items():
        if vectors < 2:
            continue
        whole = " ".join(new_names({token: vectors})).replace("\\", r"\\")
        name = re.escape(token)
        text = re.sub(rf"{name}(?!_\d)(?!\s+{name}_1)", whole, text, flags=re.IGNORECASE)
    return text
