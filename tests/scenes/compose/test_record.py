"""What became of an event, in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from birdsd.scenes.bank.gate import EventVerdict
from birdsd.scenes.compose.record import why_not
from tests.support.songs_of_scenes import a_song


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (
            EventVerdict("BirdNET", False, 0.01, "Great Tit"),
            "not confirmed in 4 tries by BirdNET, which heard Great Tit",
        ),
        (EventVerdict("BirdNET", False, 0.12, "Synthetic Low"), "whose best score for it was 0.12"),
    ],
)  # fmt: skip
def test_why_an_event_is_left_out(verdict: EventVerdict, said: str) -> None:
    clip = a_song("Synthetic Low", 0)
    clip = replace(clip, verdict=verdict, origin=replace(clip.origin, tries=4))
    assert said in why_not(clip)
    assert "nothing sounded in 4 tries" in why_not(replace(clip, measured=None))
