"""One page of each kind with everything on it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from birdsd.evaluation.background import Background
from birdsd.evaluation.comparison import (
    IN_ENVIRONMENT,
    KNOWN,
    NEW,
    ArmResult,
    Comparison,
    Difference,
    Figures,
    MadeClip,
    Validation,
)
from birdsd.evaluation.grid_judgement import judge_cells
from birdsd.evaluation.judged_run import Reference, staircase_of
from birdsd.evaluation.judges import Sound
from birdsd.evaluation.staircase import CODEC, GENERATED
from birdsd.evaluation.weak_check import CopyCheck, GeneratedClip, Score, learning_check
from birdsd.files import append_bytes, write_json
from birdsd.pages.comparison.page import comparison_page
from birdsd.pages.demo import ClosingScene, Pair, demo_page
from birdsd.pages.grid import Cell, GridData, write_grid_page
from birdsd.pages.media import AudioClip
from birdsd.pages.run.page import write
from birdsd.shards.index import ShardIndex
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.fake_judge import FakeJudge
from tests.support.histories import HOUR, T0, History
from tests.support.pages import _data
from tests.support.songs import SPECIES, song
from tests.support.sound_makers import save

WORK = {"start": 0.1, "imports": 0.05, "restore": 0.02, "train": 1.0, "validate": 0.05, "save": 0.01}


def samples(folder: Path, codec: SpectrogramCodec, index: ShardIndex) -> dict[str, Path]:
    """Every kind of page, written into `folder`, by name."""
    return {
        "demo": _demo(folder, codec, index),
        "demo without a check": demo_page(folder / "plain.html", _data(codec, None, False, "Wren")),
        "comparison": _comparison(folder, codec, index),
        "grid": _grid(folder, codec),
        "report": _report(folder),
        "report of nothing": write(History(folder / "none").run, folder / "none.html", now=T0).path,
    }


def _demo(folder: Path, codec: SpectrogramCodec, index: ShardIndex) -> Path:
    sung = [Sound(s, song(s if s != SPECIES[2] else SPECIES[0], 30, 0, codec), codec.rate_hz, s)
            for s in SPECIES]  # fmt: skip
    judged = staircase_of(index, sung, judge=FakeJudge(known=SPECIES[:2]), progress=False)
    made, real = judged.verdicts(GENERATED), judged.verdicts(CODEC)
    pairs = []
    for number, sound in enumerate(sung):
        image = codec.encode(sound.waveform, codec.rate_hz)
        at = next((n for n, clip in enumerate(judged.real) if clip.species == sound.species), None)
        held = None
        if at is not None:
            clip = judged.real[at]
            held = AudioClip(codec, clip.image, clip.heard, codec.rate_hz, "one <recordist>", real[at])
        pair = Pair(
            sound.species, f"a {sound.species}",
            AudioClip(codec, image, sound.waveform, codec.rate_hz, "seed 3", made[number]), held,
        )  # fmt: skip
        pairs += [pair, pair] if number == 0 else [pair]
    generated = [GeneratedClip(s, image=codec.encode(song(s, 20 + i, 0, codec), codec.rate_hz))
                 for s in SPECIES for i in range(3)]  # fmt: skip
    data = _data(codec, learning_check(index, generated), True, SPECIES[0])
    scene = ClosingScene("a <Synthetic> High in rain", scene_folder(folder / "evening"))
    return demo_page(folder / "demo.html", dataclasses.replace(data, judged=judged, pairs=pairs, scene=scene))


def scene_folder(folder: Path, species: str = SPECIES[0]) -> Path:
    """What `birdsd run scene` leaves of a scene of 8 s at 16 kHz: a confirmed song, one that nobody judged,
    one that did not come out, and a background out of recordings."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    sound = 0.001 * draw.standard_normal(8 * 16000)
    sound[16000:32000] += 0.3 * np.sin(2 * np.pi * 3000 * np.arange(16000) / 16000)
    soundfile.write(folder / f"{folder.name}.flac", sound, 16000, subtype="PCM_24")
    heard = {"sound_type": "song", "judge": "Fake judge", "confirmed": True, "score": 0.9, "snr_db": 6.0}
    first = {
        "key": "e0",
        "species": species,
        "onset_s": 1.0,
        "offset_s": 2.0,
        "low_hz": 2000.0,
        "high_hz": 4000.0,
    }
    second = {**first, "key": "e1", "species": SPECIES[1], "onset_s": 4.0, "offset_s": 5.5, "high_hz": 7900.0}
    nobody = {"sound_type": "", "judge": "energy alone", "confirmed": None, "score": None, "snr_db": None}
    asked = {"key": "e2", "species": SPECIES[2], "onset_s": 6.0, "fate": "did not come out",
             "why": "not confirmed in 4 tries by Fake judge"}  # fmt: skip
    write_json(
        folder / "labels.json",
        {
            "name": folder.name, "duration_s": 8.0, "rate_hz": 16000, "licence": "CC BY 4.0",
            "gate": "Fake judge",
            "came_out": [{**second, **nobody}, {**first, **heard}],
            "asked": [{**first, "fate": "placed", "why": ""}, asked],
            "backgrounds": [{"environment": "rain", "from_s": 0.0, "to_s": 8.0, "level_db": -33.0}],
            "trail": [{"kind": "recorded", "licence": "CC BY 4.0", "attribution": "Recordist <1>"},
                      {"kind": "generated", "licence": "", "attribution": ""}],
            "notes": ["e2 (Synthetic Trill) is left out: not confirmed in 4 tries",
                      "everything was turned down by 1 dB"],
        },
    )  # fmt: skip
    return folder


def _score(right: float) -> Score:
    counts = [[3, 1, 0], [1, 2, 1], [0, 0, 4]]
    return Score(12, right, right / 2, (1 + right) / 2, "clips", 12, 9, 0.001, {}, {}, {}, counts)


def _comparison(folder: Path, codec: SpectrogramCodec, index: ShardIndex) -> Path:
    clips = []
    for kind, species in ((NEW, SPECIES[1]), (NEW, SPECIES[0]), (IN_ENVIRONMENT, SPECIES[1]),
                          (KNOWN, SPECIES[2])):  # fmt: skip
        wave = song(species, 30, 0, codec)
        name = f"{kind}-{species}"
        sound = save(folder / "clips" / f"{name}.wav", wave, codec.rate_hz)
        Image.fromarray(codec.to_rgb(codec.encode(wave, codec.rate_hz))).save(
            folder / "clips" / f"{name}.png"
        )
        place = "rain" if kind == IN_ENVIRONMENT else ""
        clips.append(MadeClip(kind, species, place, 0, f"a {species}", folder / "clips" / f"{name}.png",
                              sound, species, 0.3, SPECIES[1], species == SPECIES[1], 0.8))  # fmt: skip
    reference = Reference.of(index, judge=FakeJudge(), progress=False)
    near = CopyCheck(0.4, 0.5, 0.1, 0.3, 0.2, 0.3, [1] * 12, [0.05] * 12)
    named = reference.real_stages.steps[-1].named
    loud = Background(8, -40.0, -30.0, 8.0, 12.0, 0.001, 0.75, 0.9, 8, 8)
    gain, lost = Difference(12, 2, 9, 8, 1, 0.001, 0.004), Difference(12, 9, 8, 0, 1, 0.5, 0.9)
    arms = [
        ArmResult("base", "Base", "untouched", control=True, scores={NEW: _score(0.2), KNOWN: _score(0.8)},
                  everything=_score(0.4), kappa=0.1, figures=Figures(generate_s=30.0), clips=clips),
        ArmResult(
            "lora", "LoRA", "small updates", loss="denoising",
            scores={NEW: _score(0.7), KNOWN: _score(0.6), IN_ENVIRONMENT: _score(0.5)},
            everything=_score(0.6), kappa=0.5, gain=gain, forgetting=lost, nearness=near, background=loud,
            heard={NEW: named, KNOWN: named}, validation=Validation([0, 100, 200], [0.5, 0.3, 0.2], 6),
            figures=Figures(100.0, 150.0, 20.0, 900.0, 3000.0, 800.0, 12345, 200, 812_000), clips=clips,
        ),
        ArmResult(
            "full", "Full <b>", "all weights", loss="denoising", knew_others=False,
            scores={NEW: _score(0.5)}, everything=_score(0.5), gain=lost, forgetting=gain,
            validation=Validation([0, 100, 200], [0.6, 0.4, 0.3], 6),
            figures=Figures(4000.0, 0.0, 0.0, 1500.0, 0.0, 0.0, 2_000_000, 200, 44_000_000, partly=True),
        ),
        ArmResult("clip", "CLIP", "an image tower", missing="run clip-1 is <not> finished"),
    ]  # fmt: skip
    settings = {"samples": 200, "clips_per_species": 1, "steps": 2, "guidance": 1.5, "seed": 0,
                "model": "tiny", "codec": "test", "machine": "2 CPU cores", "recordings": "birds/",
                "base": "runs/base"}  # fmt: skip
    held = {"without_db": -40.0, "with_db": -30.0, "accuracy": 0.9, "clips": 20.0, "chance": 0.25}
    told = Comparison(
        "compare_methods", SPECIES[:2], SPECIES[2:], arms, _score(0.9), 48, 24, ["rain"], held, settings,
        [("the base", 60.0)], reference.real_stages,
    )  # fmt: skip
    return comparison_page(folder / "comparison.html", told, index)


def _grid(folder: Path, codec: SpectrogramCodec) -> Path:
    sung = [song(one, 30, 0, codec) for one in SPECIES]
    sounds = [[Sound(f"{x}", sung[x], codec.rate_hz, SPECIES[x]) for x in (0, 1)] for _ in range(4)]
    heard = judge_cells(sounds, FakeJudge(known=SPECIES[:1]))
    cells = []
    for number in range(4):
        shown = [
            AudioClip(codec, codec.encode(sung[x], codec.rate_hz), sung[x], codec.rate_hz, f"seed <{x}>",
                  heard.cells[number][x]) for x in (0, 1)
        ]  # fmt: skip
        command = f"birdsd run generate n={number}"
        cells.append(Cell(number % 2, number // 2, command, shown, heard.of(number)))
    data = GridData("guidance", ["1", "3"], "steps", ["10", "25"], cells, {"prompt": "a robin", "seed": "0"},
                    heard.judge, heard.remark)  # fmt: skip
    return write_grid_page(folder / "grid.html", data)


def _report(folder: Path) -> Path:
    codec = SpectrogramCodec(name="test", rate_hz=16000, bands=32, fmin_hz=200, fmax_hz=8000, frames=64)
    history = History(folder / "runs")
    history.submitted(0, ["12"])
    history.ran("12.0", 1, took=WORK, to=3000, end=None)
    history.ran("12.1", 3, took=WORK, start=2500, to=5000, message="SIGUSR2")
    history.ran("12.2", 90, took=WORK, start=5000, to=8000, end="error", message="<out> of memory")
    history.saved(8000)
    history.event(3, event="began", allocation="12.1", birdsd="0.1.0")
    history.event(3, event="training", parameters=1234567, precision="bf16", precision_reason="as asked",
                  global_batch=8, world_size=2, micro_batches=1, micro_batch=4)  # fmt: skip
    history.event(4, event="checkpoint set aside", checkpoint="000000002800", reason="block 7")
    (history.folder / "allocations" / "12.2" / "rank-00000.log").write_text("a line\n 1%|\r 2%|#\nerror\n")
    lines = [{"kind": "train", "position": p, "loss": 1 / (1 + p / 500), "learning_rate": 1e-4,
              "gradient_norm": 1.0 + p % 7, "samples_per_s": 50.0} for p in range(0, 8000, 20)]  # fmt: skip
    lines += [{"kind": "validation", "position": p, "loss": 0.3} for p in range(1000, 8001, 1000)]
    lines += [{"kind": "resume", "position": p} for p in (2500, 5000)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    append_bytes(history.folder / "metrics.jsonl", text.encode())
    for position in (2000, 4000, 6000):
        target = history.folder / "previews" / f"{position:012d}"
        target.mkdir(parents=True)
        draw = np.random.default_rng(position)
        grid = np.full((2 * codec.bands + 4, codec.frames), 255, np.uint8)
        for top in (0, codec.bands + 4):
            grid[top : top + codec.bands] = draw.integers(0, 200, (codec.bands, codec.frames))
        Image.fromarray(np.repeat(grid[..., None], 3, axis=2)).save(target / "grid.png")
        for name in ("00-a_wren", "01-a_b_robin_b"):
            write_wav(target / f"{name}.wav", np.full((1, 4000), 1.5, np.float32), codec.rate_hz)
    write_json(history.folder / "export" / "codec.json", codec.to_json())
    return write(history.run, folder / "report.html", 2.0, "CHF", now=T0 + 100 * HOUR).path
