"""The prompt book: every example can be asked for, what cannot is listed, and belief is counted."""

from __future__ import annotations

import json

import numpy as np
import pytest

from birdsd.cli.main import main
from birdsd.errors import NothingLeft
from birdsd.files import write_json
from birdsd.pages.prompts import prompts_page
from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.book.believed import judged
from birdsd.scenes.book.book import KINDS, book_of, book_text, first_scene
from birdsd.scenes.prose.parse import understood
from birdsd.scenes.schedule import solve
from birdsd.scenes.vocabulary import Vocabulary
from birdsd.sound.audio.recordings import write_wav
from tests.scenes.sentences import VOCABULARY
from tests.support.errors import refuses
from tests.support.threads import one_thread as one_thread
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained

PLACE = "in a place"  # the name of a phrase of the book
BARE = Vocabulary(("House Sparrow",), rate_hz=32000, clip_s=3.0)


@pytest.mark.parametrize("vocabulary", [VOCABULARY, BARE], ids=["rich", "bare"])
def test_every_example_for_a_scene_is_understood(vocabulary):
    book = book_of(vocabulary, "a model")
    scenes = [one for one in book.entries if one.ask == "scene"]
    assert len(scenes) >= 14
    for one in scenes:
        solve(understood(one.example, vocabulary))
    assert {one.name for one in book.of("species")} == set(vocabulary.species)
    assert all(one.species in one.example for one in book.entries if one.species)


def test_the_first_scene_is_of_the_kind_that_this_was_begun_for():
    birds = ("American Robin", "American Goldfinch", "Great Tit")
    taught = {"American Robin": ("song",)}
    for vocabulary, text in (
        (Vocabulary(birds, ("forest",), taught),
         "an American Robin singing in loud forest followed by an American Goldfinch in quiet forest"),
        (Vocabulary(birds, ("rain",)),
         "an American Robin in loud rain followed by an American Goldfinch in quiet rain"),
        (Vocabulary(birds, pool=("wind",)),
         "an American Robin in loud wind followed by an American Goldfinch in quiet wind"),
        (Vocabulary(birds, (), {"American Robin": ("call",)}),
         "an American Robin followed by an American Goldfinch"),
        (BARE, "a House Sparrow followed by a House Sparrow"),
    ):  # fmt: skip
        assert first_scene(vocabulary) == text
        solve(understood(text, vocabulary))


def test_what_a_model_was_never_taught_is_listed_among_what_it_cannot():
    rich, bare = book_of(VOCABULARY, "rich"), book_of(BARE, "bare")
    assert {one.kind for one in rich.entries} == set(KINDS)
    assert [one.name for one in rich.of("sound type")] == ["alarm call", "call", "song", "call", "drumming"]
    assert any("Turdus migratorius" in one.other_names for one in rich.of("species"))
    assert not bare.of("environment") and not bare.of("sound type")
    said = "\n".join(bare.cannot)
    for word in (
        "other species",
        "call, of ",
        "environments: ",
        "3 s",
        "16 kHz",
        f"{PLACE}, as in",
        "time",
    ):
        assert word in said, word
    assert "environments: " not in "\n".join(rich.cannot) and PLACE not in "\n".join(rich.cannot)
    assert PLACE in [one.name for one in rich.of("scene phrase")]


class Ear:
    """Believes what is loud, and does not know the wren."""

    title = "an ear"

    def verdict(self, species: str, samples: np.ndarray, rate_hz: int) -> EventVerdict:
        if species == "Marsh Wren":
            return EventVerdict(self.title, None)
        level = float(np.square(samples).mean())
        return EventVerdict(self.title, level > 0.01, level)


def clip(folder, name: str, prompt: str, species: list[str], loud: float) -> None:
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).uniform(-loud, loud, (1, 8000)).astype(np.float32)
    write_wav(folder / f"{name}.wav", noise, 16000)
    write_json(folder / f"{name}.json", {"generated": True, "prompt": prompt, "species": species})


@pytest.fixture
def sounds(tmp_path):
    folder = tmp_path / "sounds"
    robin = "an American Robin"
    for number, loud in enumerate((0.9, 0.02, 0.03)):
        clip(folder, f"robin{number}", robin, ["American Robin"], loud)
    clip(folder, "rain", "an American Goldfinch in rain", ["American Goldfinch"], 0.01)
    clip(folder, "tit", "a Great Tit", ["Great Tit"], 0.9)
    clip(folder, "wren", "a Marsh Wren", ["Marsh Wren"], 0.9)
    clip(folder, "two", "both", ["American Robin", "Great Tit"], 0.9)
    clip(folder, "strange", "an Emu", ["Emu"], 0.9)
    (folder / "notes.json").write_text("{}")
    return folder


def test_belief_is_counted_by_prompt_and_by_species(sounds):
    book = judged(book_of(VOCABULARY, "a model"), sounds, Ear())
    species = {one.name: one for one in book.of("species")}
    robin = species["American Robin"]
    assert robin.believed is not None and (robin.believed.confirmed, robin.believed.clips) == (1, 3)
    assert robin.sound.endswith("robin0.wav"), "the most believed is the one to hear"
    assert species["Marsh Wren"].believed.share is None and species["Marsh Wren"].believed.unjudged == 1
    assert species["Little Owl"].believed is None
    assert book.clips == 6 and book.judge == "an ear" and "2 clips" in book.left_out[0]
    rain = next(one for one in book.of("environment") if one.example == "an American Goldfinch in rain")
    assert rain.believed is not None and rain.believed.share == 0 and rain.sound.endswith("rain.wav")
    for line, bird, counts in zip(
        book.cannot, ("American Goldfinch", "American Robin"), ("0 of 1 ", "1 of 3 "), strict=False
    ):
        assert line.startswith(f"{bird}, ") and counts in line
    assert not any(one.startswith(("Great Tit,", "Marsh Wren,")) for one in book.cannot)
    text = book_text(book)
    assert "believed 1 of 3" in text and str(species["Marsh Wren"].believed) in text


def test_a_folder_without_clips_is_refused(tmp_path):
    with refuses(str(tmp_path), "--make", kind=NothingLeft):
        judged(book_of(VOCABULARY, "a model"), tmp_path, Ear())


def test_the_page_has_players_and_nothing_that_names_could_break(sounds):
    book = judged(book_of(VOCABULARY, "<script>alert(1)</script>"), sounds, Ear())
    text = prompts_page(book.to_json()).render()
    assert "<script>alert" not in text and text.count("<audio") == 4 + 1
    for title in ("Species", "Sound types", "Environments", "Loudness", "Scenes", "What it cannot do"):
        assert f">{title}</h2>" in text


def test_the_verb_makes_clips_judges_them_and_writes_the_page(pipeline_folder, tmp_path, capsys):
    assert main(["prompts", str(pipeline_folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["name"] for one in told["entries"] if one["kind"] == "species"} == {
        "American Robin", "Eurasian Wren",
    }  # fmt: skip
    out = tmp_path / "book"
    assert main(["prompts", str(pipeline_folder), "--make", "1", "--judge", "none", "--out", str(out)]) == 0
    assert "nobody judged" in capsys.readouterr().out
    assert "<audio" in (out / "prompts.html").read_text() and (out / "prompts.json").is_file()


@pytest.mark.parametrize(
    "words", [["--make", "2"], ["--make", "-1", "--out", "x"], ["--make", "1", "--out", "x", "--sounds", "y"]]
)
def test_contradictions_are_refused(pipeline_folder, words, capsys):
    assert main(["prompts", str(pipeline_folder), *words]) != 0
    assert "--make" in capsys.readouterr().err
