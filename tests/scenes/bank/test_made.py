"""Songs made by a model of a few steps: a function of what is wanted, tried until the judge is content."""

from __future__ import annotations

import numpy as np
import pytest

from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.scenes.backgrounds.pool import Pool
from birdsd.scenes.backgrounds.render import Backgrounds
from birdsd.scenes.backgrounds.spool import Spool
from birdsd.scenes.bank.clip import Wanted
from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.bank.made import Maker, try_seed
from birdsd.scenes.compose.draft import Drafting
from birdsd.scenes.compose.record import MIX, NOT_HEARD
from birdsd.scenes.compose.stage import MadeSongs
from birdsd.scenes.heard.in_mix import InMix
from birdsd.scenes.scene import Background, Event, Scene
from tests.support.songs_of_scenes import make_pool
from tests.support.threads import one_thread as one_thread
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained

ROBIN = "American Robin"


class Stubborn:
    """Confirms a clip only after it refused so many, with a score that rises with its energy."""

    title = "stubborn"

    def __init__(self, refusals: int) -> None:
        self.left, self.heard = refusals, []

    def verdict(self, species, samples, rate_hz):
        self.heard.append(len(samples))
        self.left -= 1
        return EventVerdict(self.title, self.left < 0, float(np.abs(samples).max()), species)


@pytest.fixture(scope="module")
def model(pipeline_folder) -> Generator:
    return Generator(pipeline_folder)


def maker(model, gate, tries=4) -> Maker:
    return Maker(model, Request((ROBIN,), steps=3, batch_size=4), gate, tries, "CC BY 4.0")


def wanted(key: str, voice: int = 7, take: int = 0) -> Wanted:
    return Wanted(key, ROBIN, "", "an American Robin", voice, take)


def test_a_refused_song_is_made_again_with_the_next_seed(model):
    clip = maker(model, Stubborn(2)).clips([wanted("e0")])["e0"]
    assert clip.came_out and clip.origin.tries == 3 and clip.origin.seed == try_seed(7, 0, 2)
    assert clip.origin.licence == "CC BY 4.0" and clip.origin.identity == model.identity
    assert clip.measured is not None and clip.measured.offset_s <= len(clip.samples) / clip.rate_hz


def test_after_the_last_try_it_did_not_come_out_and_says_how_often_it_was_tried(model):
    gate = Stubborn(99)
    clip = maker(model, gate, tries=3).clips([wanted("e0")])["e0"]
    assert not clip.came_out and clip.origin.tries == 3 and len(gate.heard) == 3


def test_a_song_is_a_function_of_voice_and_take_alone(model):
    gate = Stubborn(0)
    both = maker(model, gate).clips([wanted("a"), wanted("b", 8), wanted("c", 7, 1)])
    alone = maker(model, gate).clips([wanted("x", 8)])["x"]
    assert np.abs(both["b"].samples - alone.samples).max() < 1e-3
    assert both["a"].origin.seed != both["c"].origin.seed != both["b"].origin.seed


def test_what_was_refused_in_the_mix_is_not_made_again(model):
    gate = Stubborn(1)
    first = maker(model, gate).clips([wanted("e0")])["e0"]
    assert first.origin.tries == 2
    following = maker(model, gate).further(wanted("e0"), first, 4)
    assert following is not None and following.refused == 2
    second = maker(model, gate).clips([following, wanted("e1", 8)])
    assert second["e0"].origin.seed == try_seed(7, 0, 2) and second["e0"].origin.tries == 3
    assert second["e1"].origin.seed == try_seed(8, 0, 0), "the others begin with their first"
    assert maker(model, gate).further(following, second["e0"], 3) is None, "after three songs"


class Late:
    """An ear that hears the third try of a song in a mix, and none before."""

    def hears(self, label, labels, mix, without, span, known):
        assert len(mix(0, span.rate_hz)) == span.rate_hz
        return InMix("late", label.tries >= 3, 0.5, label.species)


@pytest.mark.parametrize(("tries", "heard"), [(4, True), (2, False)])
def test_in_a_scene_the_next_seed_is_taken_until_the_song_is_heard_in_the_mix(model, tmp_path, tries, heard):
    scene = Scene(
        (Event("e0", ROBIN, onset_s=1.0, snr_db=10.0),), (Background("rain", source="pool"),), 6.0, seed=1
    )
    songs = MadeSongs(maker(model, Stubborn(0), tries))
    pool, ear = Pool(make_pool(tmp_path / "pool")), Late()
    with Spool(tmp_path / "spool") as spool:
        draft = Drafting(
            scene, model.codec.rate_hz, songs, Backgrounds(pool=pool), spool, None, ear, MIX, tries
        ).settled()
    voice = draft.placed.events[0].voice_seed
    last = 2 if heard else tries - 1
    assert draft.clips["e0"].origin.seed == try_seed(voice, 0, last)
    assert [one.key for one in draft.came_out] == (["e0"] if heard else []) and len(draft.stems) == heard
    assert list(draft.left_out) == ([] if heard else ["e0"])
    for why in draft.left_out.values():
        assert why.startswith(NOT_HEARD) and "2 songs" in why and why.endswith(" late")
