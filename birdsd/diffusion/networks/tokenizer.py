"""A CLIP tokenizer trained on the captions of your own recordings.

It has CLIP's form in every respect (byte-level BPE, lower case, end-of-word suffix, the same two
special tokens), so an exported pipeline loads it as it would load Stable Diffusion's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.errors import BadValue
from birdsd.files import write_text

if TYPE_CHECKING:
    import torch
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
_SUFFIX = "</w>"
_SMALLEST = 2 * 256 + 2  # every byte inside and at the end of a word, and the two special tokens


def train_tokenizer(captions: Iterable[str], vocabulary_size: int, max_tokens: int) -> CLIPTokenizer:
    """Byte-pair merges of `captions`, at most `vocabulary_size` tokens in all; the same captions in any order
    give the same tokenizer. Every byte is a token, so no word is unknown to it.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    if vocabulary_size < _SMALLEST:
        raise BadValue(
            f"model.vocabulary_size={vocabulary_size} is too small",
            f"every byte needs two tokens, so at least {_SMALLEST} are needed",
            f"set model.vocabulary_size={_SMALLEST + 486}",
        )
    counts = Counter(captions)
    texts = [text for text in sorted(counts) for _ in range(counts[text])]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        # Ties between pairs go by token number, and last letters are numbered as a randomly seeded hash map
        # gives the words out: named here, they get fixed numbers, and a resumed run its own tokenizer back.
        special_tokens=[letter + _SUFFIX for letter in alphabet],
        end_of_word_suffix=_SUFFIX,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(letter + _SUFFIX for letter in alphabet)]
    kept: list[tuple[str, str]] = []
    known = set(tokens)
    for pair in merges:
        joined = "".join(pair)
        if joined not in known and len(tokens) + 2 >= vocabulary_size:
            break
        kept.append((str(pair[0]), str(pair[1])))
        if joined not in known:
            known.add(joined)
            tokens.append(joined)
    tokens += [START, END]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    learnt: Any = kept  # annotated list[str] in transformers, handed on to tokenizers as pairs
    return CLIPTokenizer(vocab=vocabulary, merges=learnt, model_max_length=max_tokens)


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write CLIP's layout: vocab.json and merges.txt beside the files that transformers writes itself."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(str(folder))
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> torch.Tensor:
    """int64 [len(texts), max_tokens]: padded and cut as StableDiffusionPipeline does it."""
    encoded = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return encoded.input_ids
