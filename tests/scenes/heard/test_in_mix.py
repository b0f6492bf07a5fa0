"""Whether a song is heard in the mix: among which species, in which window, and not for the rain alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from birdsd.scenes.heard.in_mix import NOTHING_HEARD, MixEar, Span
from tests.support.judge_sounds import PitchJudge, tone

PHOEBE, WARBLER, SPARROW = "Black Phoebe", "Townsend's Warbler", "House Sparrow"  # 1, 4 and 8 kHz
RATE_HZ = PitchJudge.rate_hz


@dataclass(frozen=True)
class Label:
    species: str
    onset_s: float
    offset_s: float


def ear(*species: str) -> MixEar:
    return MixEar(PitchJudge(), species or (PHOEBE, WARBLER, SPARROW))


def scene(*sounds: tuple[float, float, float], seconds: float = 20.0):
    """The sum of tones (pitch, from, level) of a second each, as a function of first sample and count."""
    whole = np.zeros(round(seconds * RATE_HZ), np.float32)
    for pitch_hz, from_s, level in sounds:
        song = tone(pitch_hz, 1.0, level=level)
        whole[round(from_s * RATE_HZ) :][: len(song)] += song
    return lambda first, count: whole[first : first + count]


def heard(label, labels, mix, without, seconds=20.0):
    return ear().hears(label, labels, mix, without, Span(round(seconds * RATE_HZ), RATE_HZ))


def test_the_best_of_the_species_in_the_window_is_heard_and_says_how_surely():
    label = Label(PHOEBE, 10.0, 11.0)
    said = heard(label, [label], scene((1000, 10, 0.3), (4000, 10, 0.01)), scene((4000, 10, 0.01)))
    assert (said.judge, said.heard, said.named) == ("Pitch", True, PHOEBE) and said.score > 0.99


def test_a_song_under_a_louder_species_is_not_heard_unless_that_one_has_a_label_there():
    label = Label(PHOEBE, 10.0, 11.0)
    mix, without = scene((1000, 10, 0.1), (4000, 10.5, 0.3)), scene((4000, 10.5, 0.3))
    said = heard(label, [label], mix, without)
    assert said.heard is False and said.named == WARBLER and said.score < 0.25
    assert heard(label, [label, Label(WARBLER, 10.5, 11.5)], mix, without).heard is True
    far = Label(WARBLER, 15.0, 16.0)
    assert heard(label, [label, far], mix, without).heard is False, "a label elsewhere excuses nothing"


def test_a_background_that_the_judge_takes_for_the_bird_vouches_for_no_song():
    label = Label(PHOEBE, 10.0, 11.0)
    background = scene((1000, 9.5, 0.3))
    assert heard(label, [label], background, background).heard is False


def test_silence_and_a_species_that_the_judge_does_not_know():
    label = Label(PHOEBE, 10.0, 11.0)
    said = heard(label, [label], scene(), scene())
    assert (said.heard, said.named) == (False, NOTHING_HEARD)
    other = Label("Synthetic High", 10.0, 11.0)
    said = heard(other, [other], scene((1000, 10, 0.3)), scene())
    assert (said.judge, said.heard, said.score) == ("Pitch", None, None)


@pytest.mark.parametrize(
    ("label", "loop", "first_s", "seconds"),
    [
        (Label(PHOEBE, 10.0, 11.0), False, 9.0, 3.0),
        (Label(PHOEBE, 0.0, 1.0), False, 0.0, 3.0),  # it begins with the scene
        (Label(PHOEBE, 19.0, 20.0), False, 17.0, 3.0),
        (Label(PHOEBE, 5.0, 9.0), False, 4.0, 6.0),  # longer than a window: two of them
        (Label(PHOEBE, 1.0, 19.0), False, 1.0, 18.0),
        (Label(PHOEBE, 0.0, 1.0), True, -1.0, 3.0),  # a loop has no ends
    ],
)
def test_the_window_lies_around_the_label(label, loop, first_s, seconds):
    first, count = Span(20 * RATE_HZ, RATE_HZ, loop).window(label, 3.0)
    assert (first / RATE_HZ, count / RATE_HZ) == (first_s, seconds)


def test_a_scene_shorter_than_a_window_is_heard_whole():
    assert Span(2 * RATE_HZ, RATE_HZ).window(Label(PHOEBE, 0.5, 1.0), 3.0) == (0, 2 * RATE_HZ)


def test_a_label_over_the_end_of_a_loop_reaches_into_a_window_at_its_beginning():
    over, span = Label(WARBLER, 19.5, 20.5), Span(20 * RATE_HZ, RATE_HZ, loop=True)
    assert span.within(over, -RATE_HZ, 3 * RATE_HZ) and not span.within(over, 2 * RATE_HZ, 3 * RATE_HZ)
    assert not Span(20 * RATE_HZ, RATE_HZ).within(Label(WARBLER, 19.0, 20.0), 0, 3 * RATE_HZ)


def test_what_was_heard_once_is_not_listened_to_again():
    judge, known = PitchJudge(), {}
    calls: list[int] = []
    usual = judge.hear
    judge.hear = lambda sound, rate_hz: (calls.append(len(sound)), usual(sound, rate_hz))[1]
    label, span = Label(PHOEBE, 10.0, 11.0), Span(20 * RATE_HZ, RATE_HZ)
    mix, rest = scene((1000, 10, 0.3), (4000, 10, 0.01)), scene((4000, 10, 0.01))
    listener = MixEar(judge, (PHOEBE, WARBLER))
    first = listener.hears(label, [label], mix, rest, span, known)
    assert listener.hears(label, [label], mix, rest, span, known) == first and len(calls) == 2
