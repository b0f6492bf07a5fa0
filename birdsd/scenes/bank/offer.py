"""What a bank is asked to hold, and what to say of how it came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from birdsd.scenes.bank.fill import Filled
from birdsd.scenes.vocabulary import Vocabulary


def songs_made_of(
    vocabulary: Vocabulary, species: Sequence[str]
) -> tuple[tuple[str, ...], Mapping[str, Sequence[str]]]:
    """The species asked for (all without any) by the model's own names, and its sound types; `UserError` for
    one that it does not know."""
    names = [vocabulary.the_species(name) for name in species] or list(vocabulary.species)
    return tuple(dict.fromkeys(names)), vocabulary.sound_types


def filled_text(out: Path, done: Filled) -> str:
    """For a terminal: how many songs of each species came out."""
    made, failed = sum(done.made.values()), sum(done.failed.values())
    lines = [
        f"{made} songs made in {out}" + (f", {done.kept} already existed" if done.kept else "")
        + (f"; {failed} did not come out in all their tries and are left out" if failed else "")
    ]  # fmt: skip
    lines += [
        f"  {name}: {done.made[name]} of {done.made[name] + done.failed[name]}"
        for name in sorted({*done.made, *done.failed})
    ]
    return "\n".join(lines)
