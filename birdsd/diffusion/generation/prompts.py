"""Prompts in which some words weigh more than others: (word), (word:1.3), [word].

The grammar and the arithmetic are those of AUTOMATIC1111's web UI, so that a prompt means the same in both:
round brackets multiply by 1.1 or by the number after a colon, square ones divide by 1.1, they nest, and a
backslash makes a bracket a letter. The hidden states of a word's tokens are multiplied by its weight, and
all of them by one factor that gives them back their mean. What differs: a prompt longer than the encoder's
limit is cut, as everywhere else here, where the web UI goes on in a second chunk; the mean is each prompt's
own, where the web UI takes a batch's; `[a:b:0.5]` and BREAK are plain words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer

STRONGER, WEAKER = 1.1, 1 / 1.1
# A backslash with or without what it protects; a weight with its bracket; a bracket; text.
_PIECES = re.compile(r"\\[\\()\[\]]?|:\s*(?P<weight>[+-]?[.\d]+)\s*\)|[()\[\]]|:|[^\\()\[\]:]+")
_OPENED_BY = {")": "(", "]": "["}
_LEAST_WEIGHT = 0.1  # what a weight of 0 or less counts as where the mean is given back


def parse_emphasis(text: str) -> list[tuple[str, float]]:
    """`text` in pieces, each with its weight; neighbours differ in weight.

    Nothing is malformed, as in the web UI: a bracket that nobody opened and a colon without a number are
    letters, one that nobody closes reaches to the end, a lone backslash vanishes. A weight that is no number
    (1.2.3) is text too; there it is an error.
    """
    pieces: list[tuple[str, float]] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        start = opened[kind].pop()
        pieces[start:] = [(words, weight * factor) for words, weight in pieces[start:]]

    for match in _PIECES.finditer(text):
        piece = match.group()
        weight = _number(match["weight"])
        if piece in opened:
            opened[piece].append(len(pieces))
        elif weight is not None and opened["("]:
            close("(", weight)
        elif piece in _OPENED_BY and opened[_OPENED_BY[piece]]:
            close(_OPENED_BY[piece], STRONGER if piece == ")" else WEAKER)
        elif match["weight"] and opened["("]:
            pieces.append((piece[:-1], 1.0))
            close("(", STRONGER)
        else:
            pieces.append((piece[1:] if piece.startswith("\\") else piece, 1.0))
    for kind, factor in (("(", STRONGER), ("[", WEAKER)):
        while opened[kind]:
            close(kind, factor)
    runs = groupby((piece for piece in pieces if piece[0]), key=itemgetter(1))
    return [("".join(words for words, _ in run), weight) for weight, run in runs] or [("", 1.0)]


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def plain_text(text: str) -> str:
    """The words alone: what `text` says without its brackets and weights."""
    return "".join(words for words, _ in parse_emphasis(text))


def literal(text: str) -> str:
    """`text` with its brackets and backslashes made letters."""
    return re.sub(r"([\\()\[\]])", r"\\\1", text)


def keep_names(text: str, names: Iterable[str]) -> str:
    """Make the brackets inside `names` letters: in "a Northern Flicker (Red-shafted)" they weigh nothing."""
    bracketed = sorted((name for name in names if re.search(r"[()\[\]]", name)), key=len, reverse=True)
    if not bracketed:
        return text
    pattern = "|".join(re.escape(name) for name in bracketed)
    return re.sub(pattern, lambda match: literal(match.group()), text, flags=re.IGNORECASE)


def emphasise_tokens(text: str, tokens: Mapping[str, int], weight: float) -> str:
    """`text` with each learnt token (name -> vectors) followed by its further vectors, all of `weight`.

    >>> emphasise_tokens("a <wren> in rain", {"<wren>": 2}, 0.5)
    'a (<wren> <wren>_1:0.5) in rain'
    """
    from birdsd.diffusion.networks.token_vectors import expand_tokens, new_names

    text = expand_tokens(text, tokens)
    if weight != 1:
        for token, vectors in tokens.items():
            whole = r"\s+".join(re.escape(name) for name in new_names({token: vectors}))
            number = f"{weight:.6f}".rstrip("0")
            text = re.sub(rf"{whole}(?!_\d)", rf"(\g<0>:{number})", text, flags=re.IGNORECASE)
    return text


def weighted_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """int64 [len(texts), n] tokens and float32 [len(texts), n] weights, n the tokenizer's longest prompt.

    Start, end and padding weigh 1. A prompt in which every word does has the very tokens of
    `tokenizer.token_ids`; pieces of different weight are tokenised one by one, as the web UI does.
    """
    import torch

    from birdsd.diffusion.networks.tokenizer import token_ids

    rows, weights = [], []
    longest = int(tokenizer.model_max_length)
    for text in texts:
        pieces = parse_emphasis(text)
        if all(weight == 1.0 for _, weight in pieces):
            rows.append(token_ids(tokenizer, [pieces[0][0]])[0])
            weights.append(torch.ones(longest))
            continue
        tokens: list[int] = []
        factors: list[float] = []
        for words, weight in pieces:
            found = tokenizer(words, add_special_tokens=False).input_ids
            tokens += found
            factors += [weight] * len(found)
        tokens, factors = tokens[: longest - 2], factors[: longest - 2]
        rest = longest - 2 - len(tokens)
        special: Any = tokenizer  # its ids are `int | None` in the annotations, and there in every CLIP
        ends = [special.eos_token_id, *[special.pad_token_id] * rest]
        rows.append(torch.tensor([special.bos_token_id, *tokens, *ends]))
        weights.append(torch.tensor([1.0, *factors, *[1.0] * (rest + 1)]))
    return torch.stack(rows), torch.stack(weights)


def emphasise(states: Tensor, weights: Tensor) -> Tensor:
    """Hidden `states` [B, n, width] times `weights` [B, n], each prompt's mean as it was before.

    Rows whose weights are all 1 are left to the bit. The factor that gives the mean back lies between one
    over the greatest and one over the smallest weight, as it must where the tokens' means have one sign. In
    a custom encoder they may cancel out: then the quotient of two means close to 0 could be anything,
    and is kept within these bounds.
    """
    import torch

    rows = []
    for row, weight in zip(states, weights.to(states.device), strict=True):
        if bool((weight == 1).all()):
            rows.append(row)
            continue
        heavier = row.float() * weight[:, None]
        low, high = 1 / weight.max().clamp(min=_LEAST_WEIGHT), 1 / weight.min().clamp(min=_LEAST_WEIGHT)
        factor = (row.float().mean() / heavier.mean()).nan_to_num(nan=1.0)
        rows.append((heavier * torch.clamp(factor, low, high)).to(row.dtype))
    return torch.stack(rows)


def encode_weighted(
    text_encoder: Any,
    tokenizer: CLIPTokenizer,
    texts: Sequence[str],
    hidden_states: Callable[[list[str]], Tensor] | None = None,
) -> Tensor:
    """[len(texts), n, width]: the text encoder's last hidden states under the prompts' emphasis.

    `hidden_states` maps the plain texts to states [B, n, width] where something other than the encoder
    itself gives them (a personalised one, say); weights go by the place of a token. Without emphasis the
    result is that of `sampling.encode_texts`, to the bit.
    """
    import torch

    device = next(text_encoder.parameters()).device
    tokens, weights = weighted_ids(tokenizer, texts)
    with torch.no_grad():
        if hidden_states:
            states = hidden_states([plain_text(text) for text in texts])
        else:
            states = text_encoder(tokens.to(device))[0]
        return emphasise(states, weights)
