"""Stage 5: `small` learns real birds for the minutes that are left, from shards that travel along, and makes
60 clips. BirdNET judges them afterwards, on a machine that has it."""

from __future__ import annotations

import json
import subprocess
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from bench.gpu_check.course import Item
from bench.gpu_check.place import steps_of
from bench.gpu_check.settings import Settings, birdsd
from birdsd.errors import NotFound
from birdsd.files import read_json, write_json
from birdsd.shards.index import ShardIndex
from birdsd.sound.captions import prompt_for
from birdsd.values import as_setting

# The autoencoder settles long before the denoiser.
ITEMS = (Item("autoencoder", share=3), Item("denoiser", share=6), Item("clips", share=1))
REHEARSED = ("autoencoder", "denoiser", "clips")
METHODS = {"autoencoder": "autoencoder", "denoiser": "full"}
CLIPS, REHEARSED_CLIPS, REHEARSED_SAMPLES = 60, 2, 8
# Seconds of an item that are no steps: imports, building, the last save and the export. Of what is left so
# much is planned for, as previews and validations take their part.
_BESIDE_S, _PLANNED = 25.0, 0.85
_MEASURED_S = 6.0


def run(item: str, settings: Settings, limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for a training or for the clips."""
    began = time.monotonic()
    shards = shards_of(settings)
    if item == "clips":
        yield from _clips(settings, shards)
        return
    method = METHODS[item]
    words = _settings(method, settings, shards)
    plan = settings.work_folder / f"learning-{method}.json"
    if not plan.is_file():  # else the same command goes on with the run that an earlier call began
        samples = _samples(words, settings, limit_s, began)
        plan.parent.mkdir(parents=True, exist_ok=True)
        write_json(plan, {"samples": samples})
    samples = read_json(plan)["samples"]
    every = max(1, samples // 6)
    words += [
        f"optim.total_samples={samples}", f"optim.warmup_samples={min(2000, samples // 20)}",
        f"save.every_samples={every}", f"save.validate_every_samples={every}",
    ]  # fmt: skip
    facts = _told("run", "train", *words)
    write_json(settings.work_folder / f"{method}.json", {"run": facts["run"]})
    yield {
        "table": "learning", "what": item, "shards": str(shards), "samples": samples,
        "samples seen": facts["position"], "finished": str(facts["finished"]).lower(),
        "seconds": time.monotonic() - began, **_losses(Path(facts["run"])),
    }  # fmt: skip


def shards_of(settings: Settings) -> Path:
    """The shards that came along; in a rehearsal those of an invented aviary, made when first asked for."""
    folder = Path(settings.data)
    if folder.is_dir():
        return folder
    if not settings.cpu:
        raise NotFound(
            f"there are no shards in {folder}",
            "the model learns from real birds, which travel along in a folder that git ignores",
            "python -m bench.gpu_check.data RECORDINGS makes it, on a machine that has them",
        )
    from birdsd.sound.synthetic import make_aviary

    made = settings.work_folder / "aviary-shards"
    if not (made / "whole").is_file():
        aviary = make_aviary(settings.work_folder / "aviary", recordings_per_species=2)
        _told(
            "run", "prepare", f"data.recordings={aviary}", f"data.shards={made}", "codec=birdsong-tiny",
            "data.cuts_per_song=1", "machine.processes=1",
        )  # fmt: skip
        (made / "whole").touch()
    return made


def _settings(method: str, settings: Settings, shards: Path) -> list[str]:
    """Of a training, but for its length."""
    words = [
        f"model={'tiny' if settings.cpu else 'small'}", f"method={method}", f"data.shards={shards}",
        f"runs={settings.work_folder / 'runs'}", f"machine.device={settings.device}",
    ]  # fmt: skip
    if settings.cpu:
        words += ["machine.threads=1", "optim.global_batch=4", "save.validation_samples=4"]
    if method == "full":
        run = read_json(settings.work_folder / "autoencoder.json")["run"]
        words += ["model.init=scratch", f"model.autoencoder={run}"]
    return words


def _samples(words: list[str], settings: Settings, limit_s: float, began: float) -> int:
    """As many as the time allows, by the speed of some steps."""
    if settings.cpu:
        return REHEARSED_SAMPLES
    from birdsd.config import compose
    from birdsd.planning.plan_training import with_chosen_machine

    config = with_chosen_machine(compose("train", [*words, "optim.total_samples=1000000"]))
    batch = int(config.optim.global_batch or 1)
    with closing(steps_of(config, settings.work_folder, whole=False)) as steps:
        for _ in islice(steps, 3):  # the caches are made, kernels chosen
            pass
        end, times = time.monotonic() + _MEASURED_S, []
        while time.monotonic() < end:
            times.append(next(steps))
    left = limit_s - (time.monotonic() - began) - _BESIDE_S
    steps_left = max(8, int(_PLANNED * left / (sum(times) / len(times))))
    return batch * steps_left


def _losses(run: Path) -> dict[str, Any]:
    """The training loss at the beginning and at the end, and that of recordings held out."""
    from birdsd.training.records import read_metrics

    lines = list(read_metrics(run))
    taught = [line["loss"] for line in lines if line["kind"] == "train"]
    held = [line["loss"] for line in lines if line["kind"] == "validation"]
    few = max(1, len(taught) // 20)
    return {
        "first loss": sum(taught[:few]) / few,
        "last loss": sum(taught[-few:]) / few,
        "held out": held[-1] if held else None,
    }


def _clips(settings: Settings, shards: Path) -> Iterator[dict[str, Any]]:
    """Of every species alike, in one file that is small enough to be carried home."""
    began = time.monotonic()
    run, out = read_json(settings.work_folder / "full.json")["run"], settings.work_folder / "clips"
    species = ShardIndex.open(shards).species
    wanted = REHEARSED_CLIPS if settings.cpu else CLIPS
    each, chosen = max(1, wanted // len(species)), species[:wanted]
    words = [
        f"run={run}", as_setting("prompt", [prompt_for([name]) for name in chosen]), f"count={each}",
        f"out={out}", f"machine.device={settings.device}", *(["steps=2"] if settings.cpu else []),
    ]  # fmt: skip
    _told("run", "generate", *words)
    packed = settings.folder / "clips.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(out.iterdir()):
            if path.suffix in (".wav", ".json"):
                archive.write(path, f"clips/{path.name}")
    yield {
        "table": "clips", "what": packed.name, "clips": len(list(out.glob("*.wav"))), "species": len(chosen),
        "seconds": time.monotonic() - began,
        "to be judged": f"unzip {packed.name} && birdsd judge clips/ --species-from {settings.data}",
    }  # fmt: skip


def _told(*words: str) -> dict[str, Any]:
    """What a command says as JSON."""
    done = subprocess.run(birdsd(*words, "--json"), stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts
