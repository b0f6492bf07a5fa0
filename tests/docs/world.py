"""A small world in which the documented commands run as they stand: presets of one's own make `tiny` and
`sd15` smaller still, the codecs coarse, and runs are called what the documents call them."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from pathlib import Path

import yaml

from birdsd.cli import main
from birdsd.sound.codec.grids import coarser
from tests.support.shard_makers import tone_folder
from tests.support.tiny import CODEC, TEXT, UNET, VAE

# How commands are shown that this world cannot run, each with the reason and where something like it is run.
EXCEPTIONS = {
    r"^birdsd ui\b": "serves a page until it is stopped: tests/ui",
    r"^birdsd verify\b": "trains and kills real ranks for minutes: tests/checks/verify",
    r"^birdsd site detect": "asks Slurm: tests/site/test_detect.py",
    r"^birdsd run evaluate\b": "hears species that a judge knows: tests/evaluation/classification",
    r"^birdsd (cancel|resume)\b": "acts on jobs in a queue: tests/cluster/test_resume.py",
    r"^birdsd submit .*--wait": "needs a queue: tests/cluster/test_testbed.py",
    r"^birdsd (run|submit) (scene|bank)\b": "sings what a long training taught: tests/scenes/compose",
    r"^birdsd run bearings\b": "hears the scenes that they made: tests/scenes/space",
    r"^birdsd run separate .*model=": "a model that the command above it makes: tests/sound/stems",
    r"^birdsd prompts\b": "tells of a model of the reader's, with its clips: tests/scenes/book",
    r"^birdsd run prepare data.recordings=scenes": "takes back what they made: tests/scenes/compose",
    r"^birdsd submit (compare_)?methods": "is one array job of the next: tests/studies/test_study.py",
    r"^birdsd run quality\b": "measures clips of the reader's model by the judge: tests/evaluation/embedded",
    r"^birdsd (run|submit) sim2real\b": "asks the judge, and trains for minutes: tests/studies",
    r"^birdsd run (compare_methods|finetune_vs_scratch|demo)\b": "trains for minutes: tests/studies",
    r"^birdsd cache-models": "downloads from a hub: tests/runs/models/test_hub.py",
    r"^birdsd import": "reads a file of the reader's: tests/diffusion/formats",
    r"^birdsd judge .*(runs/RUN|--run RUN)": "judges what a long training leaves: tests/evaluation/judges",
    r"^birdsd judge clips/": "clips that a borrowed GPU made: tests/test_gpu_check.py",
    r"^birdsd export .*--format (a1111|comfyui|diffusers)": "wants Stable Diffusion 1.5's shape, "
    "or several kinds of runs at once: tests/diffusion/formats",
    r"^birdsd export .*--format onnx": "needs packages of an extra: tests/diffusion/classifiers",
    r"\.\./shared/data": "real recordings, which a clone does not have: tests/sound, tests/evaluation",
    r"recipe=": "the recipe of a clip of the reader's: tests/diffusion/generation",
    r"init=recording.wav|guide=@4000": "a recording or checkpoint of theirs: tests/diffusion/generation",
}
# What a reader would put there.
_READERS = {
    r"^runs/tiny-(autoencoder|full)-\.\.\.": lambda found: "ears" if found[1] == "autoencoder" else "RUN",
    r"(?<==)runs/tiny-(autoencoder|full)-\.\.\.": lambda found: (
        "ears" if found[1] == "autoencoder" else "RUN"
    ),
    r"^(SITE|NAME)$|(?<=^site=)SITE$|(?<=^site=)NAME$": lambda found: "testbed",
    r"(?<==)FOLDER$": lambda found: "RUN",
    r"array=N": lambda found: "array=2",
    r"(?<=^optim\.total_samples=)\d{4,}$": lambda found: "64",  # the length of a recipe is the reader's
}


def excepted(words: tuple[str, ...]) -> str:
    """Why a command is not run here; empty where it is."""
    text = " ".join(words)
    return next((why for pattern, why in EXCEPTIONS.items() if re.search(pattern, text)), "")


def typed(words: tuple[str, ...]) -> list[str]:
    """A documented command as it is typed here; nothing is sent to a queue that is not there."""
    found = []
    for word in words[1:]:
        for pattern, value in _READERS.items():
            word = re.sub(pattern, value, word)
        found += ["data.shards=shards/"] if word == "..." else [word]
    if found[0] == "submit" and "--dry-run" not in found:
        found.append("--dry-run")
    if found[:2] == ["submit", "train"]:
        found.append("seed=1")  # another run: for a finished one there is no script
    if found[0] not in ("run", "submit"):
        return found
    groups = {word.partition("=")[0]: word for word in found}
    if found[1] in ("train", "cache"):
        # The preset that a job starts from is ours; one's own of that name must be named.
        found += [] if "model" in groups else ["model=tiny"]
        scratch = groups.get("model", "model=tiny") == "model=tiny" and "model.init=pretrained" not in found
        with_one = "model.autoencoder" in groups or {"method=autoencoder", "method=upscaler"} & {*found}
        found += ["model.autoencoder=ears"] if scratch and not with_one else []
    if found[1] == "prepare" and "codec" not in groups:
        found.append("codec=birdsong")
    return found


def run(words: list[str]) -> int:
    """The exit status of `birdsd WORDS` in the current folder."""
    try:
        return main.main(words)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1


def make(folder: Path) -> None:
    """Fill the folder, which is the current one, with what the commands speak of."""
    own = folder / "own"
    os.environ["BIRDSD_CONFIGS"] = str(own)
    shape = {"unet": UNET, "vae": VAE, "text": TEXT, "vocabulary_size": 560, "max_tokens": 77}
    short = {"total_samples": 8, "global_batch": 4, "warmup_samples": 0, "learning_rate": 1e-3}
    methods = (
        "autoencoder",
        "full",
        "full_pretrained",
        "lora",
        "textual_inversion",
        "clip",
        "classifier",
        "dreambooth_lora",
        "upscaler",
    )
    advice = {"recommended": {**dict.fromkeys(methods, short), "sampling": {"steps": 2}}}
    _preset(own, "model", "tiny", {**shape, **advice})
    _preset(own, "model", "sd15", {**shape, **advice, "init": "pretrained", "source": "RUN"})
    codec = dataclasses.asdict(CODEC)
    for name in ("birdsong", "birdsong-tiny", "birdsong-small", "riffusion"):
        fields = {item.name for item in dataclasses.fields(main.schema.CodecConfig)}
        _preset(own, "codec", name, {k: v for k, v in codec.items() if k in fields and k != "name"})
    half = dataclasses.asdict(coarser(CODEC, 2))
    _preset(own, "codec", "birdsong-half", {k: v for k, v in half.items() if k in fields and k != "name"})
    for name in ("recordings", "songs", "rain"):
        tone_folder(folder / name, seconds=2.0)
    on_top = "model=tiny model.init=pretrained model.source=RUN data.shards=shards"
    for command in (
        "run prepare data.recordings=recordings data.shards=shards codec=birdsong",
        "run train name=ears method=autoencoder model=tiny data.shards=shards",
        "run train name=RUN method=full model=tiny model.autoencoder=ears data.shards=shards",
        "run train name=birds method=lora model=sd15 data.shards=shards",
        f"run train name=LORA method=lora {on_top}",
        f"run train name=TOKENS method=textual_inversion {on_top}",
        f"run train name=CLIP_RUN method=clip {on_top}",
        f"run train name=AESTHETIC method=aesthetic_gradients {on_top} model.clip=CLIP_RUN",
        "run prepare data.recordings=recordings data.shards=coarse codec=birdsong-half",
        "run train name=COARSE_AUTOENCODER method=autoencoder model=tiny data.shards=coarse "
        "method.crop_frames=0",
        "run train name=COARSE_RUN model=tiny model.autoencoder=COARSE_AUTOENCODER data.shards=coarse",
        "run train name=UPSCALER method=upscaler model=tiny model.autoencoder=COARSE_AUTOENCODER "
        "data.shards=shards",
        "run train name=MINE method=classifier model=tiny data.shards=shards",
        "run generate run=RUN count=1 prompt=bird",
        "pack RUN --out RUN.birdsd.zip",
    ):
        assert run(command.split()) == 0, command
    shutil.copy(next((folder / "generated").glob("*.wav")), folder / "clip.wav")


def _preset(own: Path, group: str, name: str, values: dict) -> None:
    path = own / group / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# {name}, small enough for a test\n" + yaml.safe_dump(values))
