"""Stands in for `birdsd` where a test is about the order of jobs and not about what they do.

prepare is the real one; train and generate leave behind what the real ones would, in a moment. Every call
adds a line to calls.jsonl in the folder that $FAKE_BIRDSD names. A file `hold-NAME` there makes the
training NAME wait until it is told to stop (it saves, and leaves with 75) or the file is gone; `fail-NAME`
makes it fail.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from birdsd import config
from birdsd.files import write_json
from birdsd.jobs_api import load_job

HERE = Path(os.environ.get("FAKE_BIRDSD", "."))
SPECIES_HZ = {"one": 1500.0, "two": 2500.0, "three": 3600.0, "four": 5000.0}


def main(verb: str, job: str, *words: str) -> int:
    settings = [word for word in words if word != "--json"]
    told = {"verb": verb, "job": job, "pid": os.getpid(), **dict(s.split("=", 1) for s in settings)}
    with open(HERE / "calls.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps(told) + "\n")
    if job == "prepare":
        facts = load_job(job)(config.compose(job, settings)).facts
    else:
        facts = train(told) if job == "train" else generate(told)
    if facts is None:
        return 75
    if not facts:
        print("birdsd: it was told to fail", file=sys.stderr)
        return 2
    print(json.dumps(facts))
    return 0


def train(told: dict[str, str]) -> dict | None:
    form = told.get("method.base_method", "")
    name = (
        f"{told['method']}{'-' + form if form else ''}-{told['model.init']}-{Path(told['data.shards']).name}"
    )
    folder = Path(told["runs"]) / name
    facts = {"run": str(folder), "nothing_to_do": (folder / "finished.json").is_file(), "position": 32}
    if (HERE / f"fail-{told['method']}").exists():
        return {}
    if facts["nothing_to_do"]:
        return facts
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    write_json(folder / "signature.json", {"signature": name, "job": "train"})
    write_json(folder / "checkpoints" / f"{16:012d}" / "COMMIT.json", {})
    (HERE / f"begun-{told['method']}").touch()
    while (HERE / f"hold-{told['method']}").exists() and not stopped:
        time.sleep(0.02)
    if stopped:
        return None
    lines = [{"kind": "validation", "position": at, "loss": 1 / at, "samples": 2} for at in (16, 32)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "events").mkdir(exist_ok=True)
    event = {"time": 1.0, "event": "training", "parameters": 1234}
    (folder / "events" / "one.jsonl").write_text(json.dumps(event) + "\n")
    (folder / "export").mkdir(exist_ok=True)
    (folder / "export" / "weights.safetensors").write_bytes(bytes(1000))
    (folder / "export" / "codec.json").write_text("{}")
    write_json(folder / "finished.json", {"position": 32})
    return facts


def generate(told: dict[str, str]) -> dict:
    """A recording of the species that was asked for, or of the first where the base model is asked."""
    from PIL import Image

    from birdsd.sound.audio.recordings import write_wav
    from tests.support.shard_makers import CODEC

    out = Path(told["out"])
    out.mkdir(parents=True, exist_ok=True)
    recorded = recordings(next((out.parent.parent / "shards").glob("all-*")))
    clips = []
    for number, prompt in enumerate(json.loads(told["prompt"])):
        named = next(name for name in SPECIES_HZ if name in prompt.lower())
        for index in range(int(told["count"])):
            sound, picture = out / f"{number}-{index}.wav", out / f"{number}-{index}.png"
            made = sound.is_file()
            waveform = recorded["one" if out.name == "base" else named][index]
            if " rain" in prompt:
                noise = np.random.default_rng(number).standard_normal(waveform.shape)
                waveform = (waveform + 0.02 * noise).astype(np.float32)
            write_wav(sound, waveform, CODEC.rate_hz)
            Image.fromarray(CODEC.to_rgb(CODEC.encode(waveform, CODEC.rate_hz))).save(picture)
            clips.append({"prompt": prompt, "index": index, "sound": str(sound), "picture": str(picture)})
            clips[-1]["made"] = not made
    return {"clips": clips, "nothing_to_do": not any(clip.pop("made") for clip in clips)}


def recordings(shards: Path) -> dict[str, list[np.ndarray]]:
    """The sound of each species' training clips, cut out of the recordings."""
    from birdsd.shards.index import ShardIndex
    from birdsd.shards.reader import ShardReader
    from birdsd.sound.audio.recordings import read
    from tests.support.shard_makers import CODEC

    calls = [json.loads(line) for line in (HERE / "calls.jsonl").read_text().splitlines()]
    root = Path(next(told["data.recordings"] for told in calls if told["job"] == "prepare"))
    reader = ShardReader(ShardIndex.open(shards), "train", want=("metadata",))
    found: dict[str, list[np.ndarray]] = {}
    for facts in (reader.read(number).metadata for number in range(len(reader))):
        if not facts["environment"]:
            whole = read(root / facts["path"], CODEC.rate_hz, channels=1)
            start = round(facts["start_s"] * CODEC.rate_hz)
            clip = np.zeros((1, CODEC.samples_per_clip), np.float32)
            cut = whole[:, start : start + CODEC.samples_per_clip]
            clip[:, : cut.shape[1]] = cut
            found.setdefault(facts["species"][0].lower(), []).append(clip)
    return found


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
