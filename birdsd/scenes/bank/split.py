"""Training, validation and test: voices of a bank and files of a pool, never the scenes made of them."""

from __future__ import annotations

from birdsd.errors import unknown_name
from birdsd.randomness import generator

SPLITS = ("train", "validation", "test")
_OF_TEN = ("train",) * 8 + ("validation", "test")


def split_of(number: int, *key: int | str) -> str:
    """The split of the `number`-th voice of a kind, from 0. More voices move none of those that were there.

    Of every ten, eight are for training; of the first three, one is in each split, so that a small bank has
    all of them.
    """
    block, at = divmod(number, len(_OF_TEN))
    draw = generator("split", block, *key)
    first = list(draw.permutation(SPLITS))
    rest = ["train"] * 7
    order = (first + rest) if block == 0 else list(draw.permutation(_OF_TEN))
    return str(order[at])


def check_split(name: str) -> str:
    """A split's name, or '' for all; `UserError` for any other."""
    if name and name not in SPLITS:
        raise unknown_name("split", name, SPLITS)
    return name
