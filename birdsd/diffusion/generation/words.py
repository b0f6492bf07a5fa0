"""Species named in a text, and the words that stand for them in a model that was taught new ones.

Textual inversion teaches a token and DreamBooth a rare word for a species. Captions and prompts go
through the same replacement, so that one asks every model for "a Black Phoebe singing".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from birdsd.sound.species.kinds import TYPOGRAPHIC


def species_pattern(name: str) -> str:
    """A regular expression for a species' name in `folded` text: plural, blanks or hyphens, with or without
    its apostrophe."""
    words = [re.escape(word) for word in re.split(r"[\s_-]+", folded(name)) if word]
    words = [word.replace("'", "(?:'|[\\s_])?") for word in words]
    return r"(?<!\w)" + r"[\s_-]+".join(words) + r"(?:s|es)?(?!\w)"


def folded(text: str) -> str:
    """Composed text, letter for letter without case, accents and typographic signs: positions stay."""
    plain = unicodedata.normalize("NFC", text).translate(TYPOGRAPHIC)
    bare = (unicodedata.normalize("NFKD", c)[0].lower() for c in plain)
    return "".join(b if len(b) == 1 else c for b, c in zip(bare, plain, strict=True))


def mentions(text: str, names: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """(start, end, name) of every mention of one of `names` in composed text, from left to right; the longest
    name wins an overlap."""
    found: list[tuple[int, int, str]] = []
    rest = folded(text)
    for name in sorted(names, key=lambda one: (-len(one), one)):
        pattern = re.compile(species_pattern(name))
        found += [(match.start(), match.end(), name) for match in pattern.finditer(rest)]
        rest = pattern.sub(lambda match: "\0" * len(match.group()), rest)
    yield from sorted(found)


def species_in(prompt: str, known: Sequence[str]) -> tuple[str, ...]:
    """Which of the `known` species a prompt names, in order of appearance."""
    return tuple(dict.fromkeys(name for _, _, name in mentions(prompt, known)))


def apply_words(text: str, words: Mapping[str, str]) -> str:
    """`text` with each species of `words` replaced by what stands for it; "an" before it becomes "a"
    where the new word asks for it, and the other way round.

    >>> apply_words("an American Robin in rain", {"American Robin": "<american-robin>"})
    'a <american-robin> in rain'
    """
    text = unicodedata.normalize("NFC", text)
    pieces, at = [], 0
    for start, end, name in mentions(text, list(words)):
        before = text[at:start]
        article = re.search(r"(?i)(?<!\w)an?(\s+)$", before)
        if article:
            vowel = re.sub(r"^\W+", "", words[name])[:1].lower() in tuple("aeiou")
            bare = words[name][:1].isalnum()
            chosen = "an" if vowel and bare else "a"
            before = before[: article.start()] + chosen + article.group(1)
        pieces += [before, words[name]]
        at = end
    return "".join([*pieces, text[at:]])
