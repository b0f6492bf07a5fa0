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
            ("4 tries", "BirdNET", "Great Tit"),
        ),
        (EventVerdict("BirdNET", False, 0.12, "Synthetic Low"), ("4 tries", "BirdNET", "0.12")),
    ],
)  # fmt: skip
def test_why_an_event_is_left_out(verdict: EventVerdict, said: tuple[str, ...]) -> None:
    clip = a_song("Synthetic Low", 0)
    clip = replace(clip, verdict=verdict, origin=replace(clip.origin, tries=4))
    assert all(one in why_not(clip) for one in said)
    silent = why_not(replace(clip, measured=None))
    assert "4 tries" in silent and "BirdNET" not in silent
