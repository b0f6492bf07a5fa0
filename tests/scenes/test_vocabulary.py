"""What a model may be asked for, from what its training wrote down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.diffusion.export import read_training, training_set, write_companions
from birdsd.errors import NotFound, NothingLeft
from birdsd.files import write_json
from birdsd.scenes.vocabulary import Vocabulary, vocabulary_of, vocabulary_of_run
from birdsd.shards.index import ShardIndex
from birdsd.shards.storage.writer import ShardWriter
from tests.scenes.sentences import VOCABULARY
from tests.support.errors import refuses
from tests.support.tiny import CODEC, SPECIES, picture
from tests.support.untrained import make_model


def test_a_model_says_what_it_was_taught(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model")
    told = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps({**told, "sound_types": {SPECIES[0]: ["song", "call"]}}))
    known = vocabulary_of_run(folder, pool=("rain", "surf"))
    assert known.species == tuple(SPECIES) and known.environments == ("rain", "wind")
    assert known.sound_types == {SPECIES[0]: ("song", "call")} and known.pool == ("surf",)
    assert (known.rate_hz, known.clip_s) == (CODEC.rate_hz, CODEC.clip_s)
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "export")
    assert vocabulary_of_run(tmp_path / "run", pool=("rain", "surf")) == known
    (tmp_path / "run" / "export" / "training.json").write_text("{}")
    with refuses(str(tmp_path / "run"), kind=NothingLeft):
        vocabulary_of_run(tmp_path / "run")
    with refuses(str(tmp_path), kind=NotFound):
        vocabulary_of_run(tmp_path)


def test_training_notes_which_sounds_of_a_species_its_captions_named(tmp_path: Path) -> None:
    write_json(tmp_path / "codec.json", CODEC.to_json())
    types = ["song", "adult, male, dawn song", "", "song"]
    with ShardWriter(tmp_path / "train-000000.tar") as writer:
        for number, sound_type in enumerate(types):
            facts = {
                "key": f"k{number}", "recording_id": "XC1", "species": [SPECIES[number % 3 // 2]],
                "sound_type": sound_type, "captions": ["x"],
            }  # fmt: skip
            writer.write(f"k{number}", {"npy": picture(0, number), "json": facts})
    heard = training_set(ShardIndex.open(tmp_path))
    assert heard.sound_types == {SPECIES[0]: ("dawn song", "song")}
    write_companions(tmp_path, CODEC.to_json(), heard, {})
    assert vocabulary_of([read_training(tmp_path)]).sound_types == heard.sound_types


def test_what_stands_on_a_model_adds_to_it() -> None:
    lower = {"species": ["Great Tit"], "environments": ["rain"], "sound_types": {"Great Tit": ["song"]}}
    upper = {"species": ["Little Owl", "Great Tit"], "sound_types": {"Great Tit": ["call", "song"]}}
    known = vocabulary_of([lower, upper])
    assert known == Vocabulary(("Great Tit", "Little Owl"), ("rain",), {"Great Tit": ("song", "call")})


@pytest.mark.parametrize(
    "name",
    [
        "Great Tit",
        "great_tit",
        "GREAT TIT",
        "GRTI",
        "Parus major",
        "Parus major_Great Tit",
        "Great Tit (Parus major)",
    ],
)
def test_a_species_is_found_by_any_of_its_names(name: str) -> None:
    known = VOCABULARY.with_scientific(["Parus major_Great Tit", "Corvus corax_Common Raven"])
    assert known.the_species(name) == "Great Tit"
    assert "Corvus corax" not in known.scientific


def test_a_code_of_two_species_is_none() -> None:
    known = Vocabulary(("Barn Owl", "Barred Owl"))
    assert known.find_species("BAOW") is None


def test_data_of_scenes_need_no_torch() -> None:
    rooms = "import birdsd.scenes.prose.sentence, birdsd.scenes.drawn.draw, birdsd.scenes.labels, "
    rooms += "birdsd.scenes.store, birdsd.scenes.picture, birdsd.scenes.table, sys\n"
    # Reading a model's vocabulary loads none of its networks either.
    rooms += "try: birdsd.scenes.vocabulary.vocabulary_of_run('nowhere')\n"
    rooms += "except birdsd.errors.UserError: pass\n"
    script = (
        rooms + "print([m for m in ('torch', 'diffusers', 'matplotlib', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
