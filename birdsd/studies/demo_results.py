"""The results of the demo's stages, put together: the weak check, the judge, and the page."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

import birdsd
from birdsd.cluster.snapshot import code_fingerprint
from birdsd.errors import UserError
from birdsd.evaluation.available_judge import available_judge
from birdsd.evaluation.judged_run import JudgedRun, staircase_of
from birdsd.evaluation.judges import Sound
from birdsd.evaluation.real_clips import decoded
from birdsd.evaluation.staircase import CODEC, GENERATED
from birdsd.evaluation.weak_check import LearningCheck, as_clips, learning_check
from birdsd.files import fingerprint, read_json, sha256_file, write_json
from birdsd.pages.demo import DemoData, Interruption, Losses, Pair, Training, demo_page
from birdsd.pages.media import AudioClip
from birdsd.runs.auto import AUTO
from birdsd.runs.run import Run
from birdsd.schema import DemoConfig
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.site.machine import gpu_devices
from birdsd.sound.audio.recordings import read
from birdsd.sound.codec.protocol import Codec
from birdsd.studies.demo_stages import KILLED_FILE, Demo
from birdsd.studies.records import metrics_by_kind, trainable_parameters

REPORTED_FILE = "reported.json"
TITLES = {"autoencoder": "Autoencoder", "full": "Diffusion model"}


@dataclass(frozen=True)
class Report:
    """The demo's page, and its contents as text and as figures."""

    page: Path
    check: LearningCheck | None  # the weak check; None with fewer than two species
    judged: JudgedRun

    def text(self) -> str:
        """For a terminal: the weak check, and below it the judge's verdicts."""
        weak = f"{self.check.text()}\n\n" if self.check else ""
        return f"{weak}{self.judged.text()}"

    def to_json(self) -> dict[str, Any]:
        """The contents of check.json; the weak check's figures are at the top level too, as before."""
        weak = self.check.to_json() if self.check else None
        return {**(weak or {}), "weak_check": weak, **self.judged.to_json()}


@dataclass(frozen=True)
class Written:
    """A page that exists, with its contents: `text` for a terminal, `facts` for a file."""

    page: Path
    text: str
    facts: dict[str, Any]


def write_report(
    demo: Demo, index: ShardIndex, runs: list[Run], generated: Mapping[str, Any], recordings: Path
) -> Written:
    """Judge the generated sounds of `runs` (autoencoder, then diffusion) and write `report.html` and
    `check.json`; `recordings` is the folder that the shards were prepared from.

    Nothing is judged again unless something has changed that the page depends on.
    """
    page, kept = demo.out / "report.html", demo.work / REPORTED_FILE
    rests_on = what_it_rests_on(demo.config, index, runs, generated)
    written = written_before(kept, rests_on, page)
    if written is None:
        report = _judge(demo, index, runs, generated, recordings, page)
        written = Written(page, report.text(), report.to_json())
        stored = {"words": written.text, "told": written.facts}  # names that stored files have
        write_json(kept, {"rests_on": rests_on, "page": sha256_file(page), **stored})
    write_json(demo.work / "check.json", written.facts)
    return written


def what_it_rests_on(
    config: DemoConfig, index: ShardIndex, runs: Sequence[Run], generated: Mapping[str, Any]
) -> str:
    """A hash of everything that a report depends on: settings, shards, runs, sounds and pictures, the judge,
    and the code that makes it."""
    judge, absent = available_judge()
    clips = [
        [clip["prompt"], clip["species"], *(sha256_file(Path(clip[kind])) for kind in ("sound", "picture"))]
        for clip in generated["clips"]
    ]
    return fingerprint(
        [
            asdict(config), index.fingerprint, [run.signature for run in runs], clips,
            judge.fingerprint if judge else absent, code_fingerprint(),
        ]
    )  # fmt: skip


def written_before(kept: Path, rests_on: str, page: Path) -> Written | None:
    """The existing report; None where there is none, it depends on something else, or the page is not the
    one that was written (a demo on other recordings writes another one there)."""
    if not (kept.is_file() and page.is_file()):
        return None
    try:
        stored = read_json(kept)
        same = stored["rests_on"] == rests_on and stored["page"] == sha256_file(page)
        return Written(page, stored["words"], stored["told"]) if same else None
    except (UserError, KeyError, TypeError):
        return None


def _judge(
    demo: Demo, index: ShardIndex, runs: list[Run], generated: Mapping[str, Any], recordings: Path, page: Path
) -> Report:
    """Judge everything, and write the page."""
    began = time.monotonic()
    codec = Codec.from_json(index.codec or {})
    clips = [clip for clip in generated["clips"] if len(clip["species"]) == 1]
    sounds = [
        Sound(
            Path(clip["sound"]).stem, read(Path(clip["sound"]), codec.rate_hz, channels=codec.channels),
            codec.rate_hz, clip["species"][0],
        )
        for clip in clips
    ]  # fmt: skip
    judged = staircase_of(index, sounds, autoencoder=runs[0].export_folder, recordings=recordings)
    check = _check(index, sounds, judged.reconstructed)
    pairs = _pairs(codec, clips, sounds, check, judged)
    judging_s = time.monotonic() - began
    scene = demo.scene(runs[-1], recordings, *_most_believed(check, judged))
    facts = list(_metadata(index))
    heard = {entry["recording_id"]: entry for entry in facts}
    costs = list(demo.stages.costs.values())
    data = DemoData(
        synthetic=demo.synthetic,
        source=str(demo.config.recordings or "made by birdsd"),
        codec=codec,
        recordings=len(heard),
        clips=len(facts),
        hours=len(facts) * codec.clip_s / 3600,
        clips_per_species=Counter(species for entry in facts for species in entry["species"]),
        pairs=pairs,
        trainings=[_training(demo, run) for run in runs],
        check=check,
        judged=judged,
        stages=[*((cost.stage, cost.wall_s) for cost in costs), ("judging the clips", judging_s)],
        peak_memory_bytes=int(max(cost.peak_mib for cost in costs) * 2**20),
        machine=f"{os.cpu_count()} CPU cores, no GPU"
        if demo.config.machine == "smoke" or (demo.config.machine == AUTO and not gpu_devices())
        else demo.config.machine,
        commands=_commands(demo, runs[-1]),
        credits=_credits(heard.values()),
        facts={
            "Seed": str(demo.config.seed),
            "Signature": runs[-1].signature,
            "Versions": f"birdsd {birdsd.__version__}, Python {platform.python_version()}",
        },
        created=date.today().isoformat(),
        scene=scene,
    )
    return Report(demo_page(page, data), check, judged)


def _most_believed(check: LearningCheck | None, judged: JudgedRun) -> tuple[list[str], str]:
    """The two species whose generated clips were named right most often, by the judge or else by the weak
    check, and that in words; nothing where neither knows two of them."""
    right: dict[str, list[bool]] = defaultdict(list)
    for verdict in judged.verdicts(GENERATED) or ():
        if verdict.species and verdict.known:
            right[verdict.species].append(bool(verdict.right))
    shares = {name: sum(one) / len(one) for name, one in right.items()}
    who = judged.staircase.credit if judged.staircase else ""
    if len(shares) < 2 and check is not None and check.generated is not None:
        shares = {name: one for name, one in check.generated.per_species.items() if one is not None}
        who = "the weak check"
    best = sorted(shares, key=lambda name: (-shares[name], name))[:2]
    return (best, f"its birds are the two that {who} named right most often") if len(best) == 2 else ([], "")


def _check(index: ShardIndex, sounds: list[Sound], reconstructed: list[Sound]) -> LearningCheck | None:
    """The weak check on the sounds as they were written; None with fewer than two species."""
    if len(index.species) < 2:
        return None
    return learning_check(index, as_clips(sounds), reconstructed=as_clips(reconstructed))


def _metadata(index: ShardIndex) -> Iterable[dict[str, Any]]:
    for split in index.splits:
        reader = ShardReader(index, split, want=("metadata",))
        for number in range(len(reader)):
            yield reader.read(number).metadata


def _pairs(
    codec: Codec,
    clips: list[dict[str, Any]],
    sounds: list[Sound],
    check: LearningCheck | None,
    judged: JudgedRun,
) -> list[Pair]:
    """Every generated clip, beside a held-out clip of its species: the next one each time, then the first."""
    from PIL import Image

    near = check.nearness.distance if check and check.nearness else None
    verdicts = judged.verdicts(GENERATED)
    real = _held_out_clips(codec, judged)
    shown: Counter[str] = Counter()
    pairs: list[Pair] = []
    for number, (clip, sound) in enumerate(zip(clips, sounds, strict=True)):
        species = clip["species"][0]
        with Image.open(clip["picture"]) as picture:
            image = codec.from_rgb(np.asarray(picture.convert("RGB")))
        caption = f"distance to the nearest training clip {near[number]:.2f} (0 = a copy)" if near else ""
        verdict = verdicts[number] if verdicts else None
        generated = AudioClip(codec, image, sound.waveform, codec.rate_hz, caption, verdict)
        own = real.get(species, [])
        held_out = own[shown[species] % len(own)] if own else None
        pairs.append(Pair(species, clip["prompt"], generated, held_out))
        shown[species] += 1
    return pairs


def _held_out_clips(codec: Codec, judged: JudgedRun) -> dict[str, list[AudioClip]]:
    """The held-out clips of every species through the codec, one of each recording before a second of any."""
    verdicts = judged.verdicts(CODEC)
    turn: Counter[tuple[str, str]] = Counter()
    placed: dict[str, list[tuple[int, int, AudioClip]]] = defaultdict(list)
    for number, one in enumerate(judged.real):
        place = turn[one.species, one.recording]
        turn[one.species, one.recording] += 1
        caption = ", ".join(t for t in (one.recording, one.credit) if t)
        verdict = verdicts[number] if verdicts else None
        clip = AudioClip(codec, one.image, decoded(codec, one), codec.rate_hz, caption, verdict)
        placed[one.species].append((place, number, clip))
    return {
        species: [clip for _, _, clip in sorted(own, key=lambda x: x[:2])] for species, own in placed.items()
    }


def _training(demo: Demo, run: Run) -> Training:
    by_kind = metrics_by_kind(run)
    trained = by_kind["train"]
    method = run.config["method"]["name"]
    batch = run.config["optim"]["global_batch"]
    killed = demo.work / KILLED_FILE
    stored = read_json(killed) if killed.is_file() else {}
    same = stored.get("signature") == run.signature
    before = [(at, loss) for at, loss in stored["curve"]] if same else []
    resumed = [line["position"] for line in by_kind["resume"]]
    return Training(
        title=TITLES.get(method, method),
        training=_losses(trained),
        validation=_losses(by_kind["validation"]),
        parameters=trainable_parameters(run),
        samples=trained[-1]["position"] if trained else 0,
        seconds=sum(batch / max(0.01, line["samples_per_s"]) for line in trained),
        interruptions=[Interruption(before[-1][0] if before else at, at) for at in resumed],
        remark=_recomputed(before, trained, resumed[0]) if resumed and before else "",
    )


def _recomputed(before: list[tuple[int, float]], trained: list[dict[str, Any]], resumed: int) -> str:
    """Whether the steps that were recomputed after the kill gave bitwise identical losses."""
    now = {line["position"]: line["loss"] for line in trained}
    redone = [(loss, now.get(at)) for at, loss in before if at > resumed]
    same = sum(one == other for one, other in redone)
    return (
        f"It was killed without warning and resumed from the latest checkpoint. Of the {len(redone)} steps "
        f"that had to be recomputed, {same} gave a bitwise identical loss."
    )


def _losses(lines: list[dict[str, Any]]) -> Losses:
    return Losses([line["position"] for line in lines], [line["loss"] for line in lines])


def _credits(recordings: Iterable[dict[str, Any]]) -> list[tuple[str, str, int]]:
    by_licence: dict[str, list[str]] = defaultdict(list)
    for entry in recordings:
        by_licence[entry.get("licence", "")].append(entry.get("recordist", ""))
    return [
        (licence, "; ".join(sorted({who for who in people if who})), len(people))
        for licence, people in sorted(by_licence.items())
    ]


def _commands(demo: Demo, run: Run) -> list[tuple[str, str]]:
    own = (
        []
        if not demo.synthetic
        else [("Repeat this with your own recordings", "make demo RECORDINGS=folder")]
    )
    return [
        *own,
        (
            "Generate more sounds with this model",
            f'birdsd run generate run={run.folder} prompt="..." count=4 out=generated',
        ),
        (
            "Compose a scene, with labels that are measured",
            f'birdsd run scene run={run.folder} prompt="..."',
        ),
        ("Inspect the shards", f"birdsd inspect {demo.work / 'shards'}"),
        (
            "Measure what a codec loses of your recordings",
            "birdsd audit folder codec=birdsong codec=riffusion",
        ),
        (
            "Train a larger model on a GPU",
            "birdsd run train model=small machine=notebook data.shards=shards ...",
        ),
    ]
