"""What the demo's stages left behind, put together: the honest check, and the page."""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import birdsd
from birdsd.cluster.auto import AUTO
from birdsd.cluster.demo import KILLED_FILE, Demo
from birdsd.cluster.machine import gpu_devices
from birdsd.cluster.store import Run
from birdsd.evaluation.demo_page import Clip, DemoData, Interruption, Losses, Pair, Training, demo_page
from birdsd.evaluation.learning_check import GeneratedClip, LearningCheck, learning_check
from birdsd.files import read_json, write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.sound.codec import SpectrogramCodec
from birdsd.sound.recordings import read
from birdsd.training.records import read_metrics

TITLES = {"autoencoder": "Autoencoder", "full": "Diffusion model"}


def write_report(
    demo: Demo, index: ShardIndex, runs: list[Run], generated: Mapping[str, Any]
) -> tuple[Path, LearningCheck | None]:
    """Judge the generated sounds and write `report.html` and `check.json`; returns the page and the check."""
    codec = SpectrogramCodec.from_json(index.codec or {})
    clips = [clip for clip in generated["clips"] if len(clip["species"]) == 1]
    check = _check(index, codec, clips)
    if check is not None:
        write_json(demo.work / "check.json", check.to_json())
    facts = list(_metadata(index))
    recordings = {entry["recording_id"]: entry for entry in facts}
    costs = list(demo.stages.costs.values())
    data = DemoData(
        synthetic=demo.synthetic,
        source=str(demo.config.recordings or "made by birdsd"),
        codec=codec,
        recordings=len(recordings),
        clips=len(facts),
        hours=len(facts) * codec.clip_s / 3600,
        clips_per_species=Counter(species for entry in facts for species in entry["species"]),
        pairs=_pairs(index, codec, clips, check),
        trainings=[_training(demo, run) for run in runs],
        check=check,
        stages=[(cost.stage, cost.wall_s) for cost in costs],
        peak_memory_bytes=int(max(cost.peak_mib for cost in costs) * 2**20),
        machine=f"{os.cpu_count()} CPU cores, no GPU"
        if demo.config.machine == "smoke" or (demo.config.machine == AUTO and not gpu_devices())
        else demo.config.machine,
        commands=_commands(demo, runs[-1]),
        credits=_credits(recordings.values()),
        facts={
            "Seed": str(demo.config.seed),
            "Signature": runs[-1].signature,
            "Versions": f"birdsd {birdsd.__version__}, Python {platform.python_version()}",
        },
        created=date.today().isoformat(),
    )
    return demo_page(demo.out / "report.html", data), check


def _check(index: ShardIndex, codec: SpectrogramCodec, clips: list[dict[str, Any]]) -> LearningCheck | None:
    """The check of learning on the sounds as they were written; None with fewer than two species."""
    if len(index.species) < 2:
        return None
    return learning_check(
        index,
        [
            GeneratedClip(
                clip["species"][0],
                waveform=read(Path(clip["sound"]), codec.rate_hz, channels=codec.channels),
                rate_hz=codec.rate_hz,
            )
            for clip in clips
        ],
    )


def _metadata(index: ShardIndex) -> Iterable[dict[str, Any]]:
    for split in index.splits:
        reader = ShardReader(index, split, want=("metadata",))
        for number in range(len(reader)):
            yield reader.read(number).metadata


def _pairs(
    index: ShardIndex, codec: SpectrogramCodec, clips: list[dict[str, Any]], check: LearningCheck | None
) -> list[Pair]:
    """The first generated clip of every species, beside the first training clip of it."""
    from PIL import Image

    real = _first_training_clips(index, codec)
    near = check.nearness.distance if check and check.nearness else None
    pairs: dict[str, Pair] = {}
    for number, clip in enumerate(clips):
        species = clip["species"][0]
        if species not in real or species in pairs:
            continue
        with Image.open(clip["picture"]) as picture:
            image = codec.from_rgb(np.asarray(picture.convert("RGB")))
        sound = read(Path(clip["sound"]), codec.rate_hz, channels=codec.channels)
        words = f"distance to the nearest training clip {near[number]:.2f} (0 = a copy)" if near else ""
        pairs[species] = Pair(
            species, clip["prompt"], Clip(image, sound, codec.rate_hz, words), real[species]
        )
    return list(pairs.values())


def _first_training_clips(index: ShardIndex, codec: SpectrogramCodec) -> dict[str, Clip]:
    """The first training clip of every species that holds this species alone, decoded."""
    reader = ShardReader(index, "train")
    found: dict[str, Clip] = {}
    for number in range(len(reader)):
        sample = reader.read(number)
        entry = sample.metadata
        if len(entry["species"]) == 1 and entry["species"][0] not in found and sample.image is not None:
            mixed = f"mixed with {entry['environment']}" if entry.get("snr_db") is not None else ""
            words = ", ".join(
                t for t in (entry["recording_id"], entry["recordist"], entry["licence"], mixed) if t
            )
            found[entry["species"][0]] = Clip(sample.image, codec.decode(sample.image), codec.rate_hz, words)
    return found


def _training(demo: Demo, run: Run) -> Training:
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in read_metrics(run.folder):
        by_kind[line["kind"]].append(line)
    trained = by_kind["train"]
    method = run.config["method"]["name"]
    batch = run.config["optim"]["global_batch"]
    killed = demo.work / KILLED_FILE
    told = read_json(killed) if killed.is_file() else {}
    before = [(at, loss) for at, loss in told["curve"]] if told.get("signature") == run.signature else []
    resumed = [line["position"] for line in by_kind["resume"]]
    return Training(
        title=TITLES.get(method, method),
        training=_losses(trained),
        validation=_losses(by_kind["validation"]),
        parameters=_parameters(run),
        samples=trained[-1]["position"] if trained else 0,
        seconds=sum(batch / max(0.01, line["samples_per_s"]) for line in trained),
        interruptions=[Interruption(before[-1][0] if before else at, at) for at in resumed],
        remark=_twice(before, trained, resumed[0]) if resumed and before else "",
    )


def _twice(before: list[tuple[int, float]], trained: list[dict[str, Any]], resumed: int) -> str:
    """Whether the steps that the kill made it do again gave the same losses, to the last bit."""
    now = {line["position"]: line["loss"] for line in trained}
    redone = [(loss, now.get(at)) for at, loss in before if at > resumed]
    same = sum(one == other for one, other in redone)
    return (
        f"It was killed without warning and resumed from the newest checkpoint. Of the {len(redone)} steps "
        f"that had to be done again, {same} gave a loss that is equal to the last bit."
    )


def _losses(lines: list[dict[str, Any]]) -> Losses:
    return Losses([line["position"] for line in lines], [line["loss"] for line in lines])


def _parameters(run: Run) -> int:
    """How many parameters learnt, from the run's own events."""
    return max((int(event["parameters"]) for event in run.events() if "parameters" in event), default=0)


def _credits(recordings: Iterable[dict[str, Any]]) -> list[tuple[str, str, int]]:
    by_licence: dict[str, list[str]] = defaultdict(list)
    for entry in recordings:
        by_licence[entry.get("licence", "")].append(entry.get("recordist", ""))
    return [
        (licence, "; ".join(sorted({who for who in people if who})), len(people))
        for licence, people in sorted(by_licence.items())
    ]


def _commands(demo: Demo, run: Run) -> list[tuple[str, str]]:
    own = [] if not demo.synthetic else [("The same with your own recordings", "make demo RECORDINGS=folder")]
    return [
        *own,
        (
            "Another sound from this model",
            f'birdsd run generate run={run.folder} prompt="..." count=4 out=generated',
        ),
        ("What is in the shards", f"birdsd inspect {demo.work / 'shards'}"),
        ("What a codec does to your recordings", "birdsd audit folder codec=birdsong codec=riffusion"),
        ("A larger model, on a GPU", "birdsd run train model=small machine=notebook data.shards=shards ..."),
    ]
