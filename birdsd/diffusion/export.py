"""A trained model as a folder that anyone's diffusers loads, with what birdsd needs beside it.

`codec.json` turns its pictures back into sound, `training.json` names what it was trained on,
`recordings.csv` credits every recording with its licence and recordist, and `README.md` is the model
card.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import birdsd
from birdsd.errors import NotFound
from birdsd.files import (
    explained_write,
    fingerprint,
    fsync_folder,
    read_json,
    sha256_file,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from birdsd.shards.index import ShardIndex


@dataclass(frozen=True)
class TrainingSet:
    """What a model has heard: species, and each recording with its rights."""

    species: tuple[str, ...]
    synthetic: bool
    recordings: tuple[dict[str, str], ...] = field(default_factory=tuple)
    environments: tuple[str, ...] = ()  # by name, those that captions speak of
    sound_types: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # species -> those of its captions

    @property
    def licences(self) -> Counter[str]:
        return Counter(recording["licence"] or "unknown" for recording in self.recordings)


def training_set(index: ShardIndex, split: str = "train") -> TrainingSet:
    """Collect species and rights of all recordings of a split, environmental sounds included."""
    from birdsd.shards.reader import ShardReader
    from birdsd.sound.captions import sound_nouns

    recordings: dict[str, dict[str, str]] = {}
    species: set[str] = set()
    environments: set[str] = set()
    types: dict[str, set[str]] = {}
    synthetic = False
    reader = ShardReader(index, split, want=("metadata",))
    for number in range(len(reader)):
        sample = reader.read(number).metadata
        named = [str(name) for name in sample.get("species", [])]
        species.update(named)
        for name in named:
            types.setdefault(name, set()).update(sound_nouns(str(sample.get("sound_type") or "")))
        if sample.get("environment"):
            environments.add(str(sample["environment"]))
        synthetic = synthetic or bool(sample.get("synthetic"))
        _credit(
            recordings,
            sample.get("recording_id"),
            ", ".join(named),
            sample.get("licence"),
            sample.get("recordist"),
        )
        if sample.get("environment_source"):
            _credit(recordings, sample["environment_source"], "", sample.get("environment_licence"), "")
    ordered = tuple(recordings[key] for key in sorted(recordings))
    taught = {name: tuple(sorted(types[name])) for name in sorted(types) if types[name]}
    return TrainingSet(tuple(sorted(species)), synthetic, ordered, tuple(sorted(environments)), taught)


def _credit(
    known: dict[str, dict[str, str]], identity: object, species: str, licence: object, by: object
) -> None:
    key = str(identity or "unknown")
    known.setdefault(
        key,
        {"recording_id": key, "species": species, "licence": str(licence or ""), "recordist": str(by or "")},
    )


def write_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder beside `folder`, then put it in place with a rename; a kill leaves the
    old one.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    with explained_write(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            write(partial)
            if folder.exists():
                os.replace(folder, aside)
            os.replace(partial, folder)
            fsync_folder(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            if aside.exists() and folder.exists():
                shutil.rmtree(aside, ignore_errors=True)
    return folder


def write_companions(
    folder: Path, codec: Mapping[str, Any], heard: TrainingSet, about: Mapping[str, Any]
) -> None:
    """codec.json, training.json, recordings.csv and README.md. `about`: what the card says of the model
    itself.
    """
    write_json(folder / "codec.json", dict(codec))
    facts = {
        "birdsd": birdsd.__version__,
        "species": list(heard.species),
        **({"environments": list(heard.environments)} if heard.environments else {}),
        **({"sound_types": {k: list(v) for k, v in heard.sound_types.items()}} if heard.sound_types else {}),
        "synthetic": heard.synthetic,
        "licences": dict(sorted(heard.licences.items())),
        "weights": weights_fingerprint(folder),
        **about,
    }
    write_json(folder / "training.json", facts)
    table = io.StringIO()
    writer = csv.DictWriter(table, ["recording_id", "species", "licence", "recordist"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(heard.recordings)
    write_text(folder / "recordings.csv", table.getvalue())
    write_text(folder / "README.md", model_card(codec, heard, about))


def weights_fingerprint(folder: Path) -> str:
    """A short hash of all weights below `folder`."""
    files = sorted(folder.rglob("*.safetensors"))
    return fingerprint([[path.relative_to(folder).as_posix(), sha256_file(path)] for path in files])


def model_card(codec: Mapping[str, Any], heard: TrainingSet, about: Mapping[str, Any]) -> str:
    """The README of an exported model, in the form that model hubs read."""
    kind = "synthetic birdsong (computer-made, no real bird)" if heard.synthetic else "birdsong"
    licences = "\n".join(f"| {name} | {count} |" for name, count in sorted(heard.licences.items()))
    species = "\n".join(f"- {name}" for name in heard.species) or "- (none named)"
    settings = "\n".join(f"- {name}: {value}" for name, value in about.items())
    grid = f"{codec.get('rate_hz')} Hz, {codec.get('bands')} bands x {codec.get('frames')} frames"
    prompt = f"a {heard.species[0]} singing" if heard.species else "birdsong"
    use = (
        "from diffusers import StableDiffusionPipeline\n"
        'pipeline = StableDiffusionPipeline.from_pretrained("THIS FOLDER", safety_checker=None)\n'
        f'picture = pipeline("{prompt}", guidance_scale=3).images[0]'
    )
    if about.get("kind") == "autoencoder":
        use = 'from diffusers import AutoencoderKL\nvae = AutoencoderKL.from_pretrained("THIS FOLDER")'
    library, generate = "diffusers", f'`birdsd run generate run=THIS_FOLDER prompt="{prompt}"`'
    if about.get("kind") == "upscaler":
        use = (
            'from safetensors.torch import load_file\nweights = load_file("THIS FOLDER/upscaler.safetensors")'
        )
        generate = f'`birdsd run generate run=RUN upscale=THIS_FOLDER prompt="{prompt}"`'
    if about.get("kind") == "classifier":
        library, generate = "birdsd", "`birdsd classify recordings/ run=THIS_FOLDER`"
        use = (
            "from birdsd.evaluation.judges import find_judge\n"
            'heard = find_judge("THIS FOLDER").hear(waveform, rate_hz)  # heard.scores [windows, classes]'
        )
    return f"""---
library_name: {library}
tags: [birdsd, bioacoustics, spectrogram]
---
# A model of {kind}

Made with birdsd {birdsd.__version__}. Its pictures are spectrograms; `codec.json` holds the settings
that turn them into sound ({grid}).

## Use
```python
{use}
```
or, with sound and labels: {generate}

## Species
{species}

## Settings
{settings}

## Rights
The model was trained on {len(heard.recordings)} recordings under these licences. `recordings.csv`
credits each of them. A non-commercial or share-alike licence may bind what you do with the model and its
sounds: read it before you publish.

| licence | recordings |
|---|---|
{licences}
"""


def parts_of(pipeline: Any) -> dict[str, Any]:
    """The parts of a loaded pipeline, as `write_pipeline` takes them."""
    networks = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder", "tokenizer")}
    return {**networks, "scheduler": dict(pipeline.scheduler.config)}


def write_pipeline(
    folder: Path,
    *,
    unet: Any,
    vae: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: Mapping[str, Any],
    codec: Mapping[str, Any],
    heard: TrainingSet,
    about: Mapping[str, Any],
) -> Path:
    """Write a StableDiffusionPipeline folder (fp32 safetensors, no safety checker) with its companions."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    from birdsd.diffusion.networks.tokenizer import save_tokenizer

    def write(partial: Path) -> None:
        with quiet_diffusers():
            pipeline: Any = StableDiffusionPipeline(
                vae=vae,
                text_encoder=text_encoder,
                tokenizer=tokenizer,
                unet=unet,
                scheduler=DDIMScheduler.from_config(dict(scheduler)),
                safety_checker=None,  # it judges photographs; on spectrograms it only wastes memory
                feature_extractor=None,
                requires_safety_checker=False,
            )
            pipeline.save_pretrained(str(partial), safe_serialization=True)
        save_tokenizer(tokenizer, partial / "tokenizer")
        write_companions(partial, codec, heard, {"kind": "pipeline", **about})

    return write_folder(folder, write)


def write_autoencoder(
    folder: Path, vae: Any, *, codec: Mapping[str, Any], heard: TrainingSet, about: Mapping[str, Any]
) -> Path:
    """Write an AutoencoderKL folder with its companions."""

    def write(partial: Path) -> None:
        vae.save_pretrained(str(partial), safe_serialization=True)
        write_companions(partial, codec, heard, {"kind": "autoencoder", **about})

    return write_folder(folder, write)


def read_training(folder: Path) -> dict[str, Any]:
    """What an exported folder says of its training; {} for a folder that birdsd did not write."""
    path = Path(folder) / "training.json"
    return dict(read_json(path, "the model's training.json")) if path.is_file() else {}


def read_codec(folder: Path) -> dict[str, Any]:
    """The codec of an exported folder; a clear error where there is none."""
    path = Path(folder) / "codec.json"
    if not path.is_file():
        raise NotFound(
            f"{folder} has no codec.json",
            "without it an image cannot be turned back into sound",
            "name a model that birdsd exported, or copy the codec.json of its shards into the folder",
        )
    return dict(read_json(path, "the model's codec.json"))


class quiet_diffusers:
    """diffusers warns about the missing safety checker at every load and save, and draws a bar for each;
    hold that back, nothing else.
    """

    def __enter__(self) -> None:
        from diffusers.utils import logging

        self._level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        from diffusers.utils import logging

        logging.set_verbosity(self._level)
        logging.enable_progress_bar()
