"""What docs/scenes.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from birdsd import yamltext
from birdsd.scenes.checks import checked
from birdsd.scenes.drawn.distribution import distribution_of
from birdsd.scenes.drawn.draw import draw_scene
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.schedule import solve
from birdsd.scenes.store import from_yaml
from birdsd.scenes.table import table
from tests.scenes.sentences import VOCABULARY

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "scenes.md").read_text(encoding="utf-8")
SCENE, DISTRIBUTION = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_files_on_the_page_are_read() -> None:
    placed = solve(checked(from_yaml(SCENE), VOCABULARY))
    assert len(placed.events) > 5 and len(placed.backgrounds) == 2
    made = distribution_of(yamltext.typed(yamltext.load(DISTRIBUTION)), VOCABULARY)
    assert len(solve(draw_scene(made, 0, VOCABULARY)).events) > 0


def test_the_table_on_the_page_is_that_of_its_sentence() -> None:
    shown = re.search(r"So `(.*?)` is understood as\n\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    printed = table(solve(understood(shown[1], VOCABULARY)))
    assert shown[2].strip() in printed


def _phrases() -> list[str]:
    rows = re.findall(r"^\| [^|]+ \| (`[^|]+) \| ", PAGE.partition("## From a file")[0], re.MULTILINE)
    phrases = [one for row in rows for one in re.findall(r"`([^`]+)`", row)]
    return [
        one.replace("A", "a Great Tit", 1).replace("B", "a Little Owl", 1)
        if re.search(r"\b[AB]\b", one)
        else one
        for one in phrases
    ]


def _in_a_sentence(phrase: str) -> str:
    """A phrase of the page with what it needs around it."""
    bird = "a Great Tit"
    if phrase in ("later", "after a pause", "and after 2 s"):
        return f"{bird}, {phrase} a Little Owl"
    if phrase.endswith(" by"):
        return f"{bird} {phrase} a Little Owl"
    if phrase.startswith(("another", "the same")):
        return f"{bird}, then {phrase}"
    if phrase.startswith("rain"):
        return f"{bird}; {phrase}"
    if phrase.startswith(("in ", "with sea", "without")):
        return f"{bird} {phrase}"
    if phrase.startswith("with pauses"):
        return f"{bird} twice {phrase}"
    alone = ("a", "three House", "the song", "AMRO", "Turdus", "30 s", "1:30")
    if phrase.startswith(alone) and not phrase.startswith("at "):
        return phrase.replace("...", bird).replace("C sing", "a Marsh Wren sing")
    return f"30 s: {bird} {phrase} in rain"


@pytest.mark.parametrize("phrase", _phrases())
def test_every_phrase_of_the_grammar_on_the_page_is_understood(phrase: str) -> None:
    understood(_in_a_sentence(phrase), VOCABULARY)


def test_the_page_has_the_whole_grammar() -> None:
    assert len(_phrases()) > 50
