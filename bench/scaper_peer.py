"""Scaper itself, in a Python that has it (1.6.5 wants numpy below 2).

Reads soundscapes as JSON from its first line, then makes all of them for every further line, and answers with
the processor time that took, in seconds. `python -m bench scenes` runs it where the environment variable
SCAPER_PYTHON names such an interpreter.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    """Serve until the input ends."""
    warnings.simplefilter("ignore")
    import scaper

    told = json.loads(sys.stdin.readline())
    soundscapes = [_soundscape(scaper, one) for one in told["soundscapes"]]
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        for number, soundscape in enumerate(soundscapes):
            soundscape.generate(
                f"{told['folder']}/real{number}.wav",
                f"{told['folder']}/real{number}.jams",
                save_isolated_events=told["isolated"],
                no_audio=False,
                disable_sox_warnings=True,
            )
        print(time.process_time() - start, flush=True)


def _soundscape(scaper: Any, one: dict[str, Any]) -> Any:
    """Its specification: every event as it was placed, nothing drawn."""
    sounds, backgrounds = one["sounds"], one["backgrounds"]
    made = scaper.Scaper(one["duration_s"], sounds, backgrounds, random_state=0)
    made.sr, made.ref_db, made.fade_in_len, made.fade_out_len = (
        one["rate_hz"],
        one["reference_db"],
        0.01,
        0.01,
    )
    made.add_background(_const(_folder(one["background"])), _const(one["background"]), _const(0))
    for event in one["events"]:
        made.add_event(
            label=_const(_folder(event["file"])),
            source_file=_const(event["file"]),
            source_time=_const(0),
            event_time=_const(event["onset_s"]),
            event_duration=_const(event["duration_s"]),
            snr=_const(event["snr_db"]),
            pitch_shift=None,
            time_stretch=None,
        )
    return made


def _const(value: object) -> tuple[str, object]:
    return ("const", value)


def _folder(path: str) -> str:
    return Path(path).parent.name


main()
