"""What is pinned: each maker gives one JSON object, from presets alone or from tiny runs made on the spot."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from birdsd import config, schema
from birdsd.cli import main
from birdsd.cli.tables.verify import result_text
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.golden.runs import made_runs, shapes, verified
from tests.golden.sentences import answers, assumptions
from tests.support.page_samples import samples
from tests.support.pages import seen
from tests.support.songs import write_shards

# Each method in every form that it has, with what it cannot do without.
PRETRAINED = ("model.init=pretrained", "model.source=someone/base")
FORMS: dict[str, tuple[str, ...]] = {
    "autoencoder": ("method=autoencoder",),
    "autoencoder from a base": ("method=autoencoder", *PRETRAINED),
    "full": ("method=full", "model.init=scratch"),
    "full from a base": ("method=full", *PRETRAINED),
    "lora": ("method=lora", *PRETRAINED),
    "textual_inversion": ("method=textual_inversion", *PRETRAINED),
    "dreambooth on lora": ("method=dreambooth", "method.base_method=lora", *PRETRAINED),
    "dreambooth on full": ("method=dreambooth", "method.base_method=full", *PRETRAINED),
    "clip": ("method=clip", *PRETRAINED),
    "upscaler": ("method=upscaler",),
    "classifier": ("method=classifier",),
    "aesthetic_gradients": ("method=aesthetic_gradients", *PRETRAINED, "model.clip=someone/clip"),
}
# Another value of each key of `method`, and of some that every method shares. Which form takes which key is
# written down here rather than asked of the code, which it is to hold to.
_NOISE = ("prediction=v_prediction", "noise_schedule=linear", "zero_terminal_snr=true")
_LOSS = ("min_snr_gamma=2.5", "caption_dropout=0.25")
_UPDATE = ("rank=4", "alpha=2", "targets=[attention]")
_WEIGHTS = ("train_text_encoder=false", "learns=[unet.*]")
_CLASS = ("word=class", "class_word=animal", "prior_weight=0.5", "class_prompts=[a bird]", "class_samples=5",
          "class_steps=6", "class_guidance=2")  # fmt: skip
_ADVERSARY = (
    "adversary_weight=0.5", "adversary_start_samples=8", "adversary_learning_rate=0.001",
    "adversary_channels=8",
)  # fmt: skip
_PICTURES = (
    "kl_weight=0.001", "gradient_weight=0.5", "crop_frames=16", "texture_weight=0.5", "feature_weight=0.5",
    *_ADVERSARY,
)  # fmt: skip
KEYS: dict[str, tuple[str, ...]] = {
    "autoencoder": _PICTURES,
    "upscaler": (
        "scale=4",
        "architecture=rrdb",
        "features=16",
        "depth=2",
        "growth=8",
        "error=absolute",
        "loud_weight=0.5",
        "autoencoder_share=0.25",
        "noise_levels=2",
        "level_shift_db=3",
        "crop_frames=64",
        "adversary_weight=0.25",
        *_ADVERSARY[1:],
    ),
    "full": (*_NOISE, *_LOSS, *_WEIGHTS),
    "full from a base": (*_LOSS, *_WEIGHTS),
    "lora": (*_LOSS, *_UPDATE),
    "textual_inversion": (*_LOSS, "tokens=style", "style_token=<song>", "vectors=2", "initial_word=song"),
    "dreambooth on lora": (*_LOSS, *_UPDATE, *_CLASS),
    "dreambooth on full": (*_LOSS, *_WEIGHTS, *_CLASS),
}
_HEARD = (
    "network=crnn", "backbone=resnet18", "width=32", "classes=[a, b]", "floor_db=-70", "loss=focal",
    "relative=false", "smoothing=0.1", "focal_gamma=1", "focal_alpha=0.5", "class_weights=0.5",
    "frame_weight=0.5",
    "dropout=0.2", "mixup=0.25", "mixup_snr_db=3", "background=0.5", "background_snr_low_db=3",
    "background_snr_high_db=20", "shift_s=0.5", "gain_db=6", "equaliser_db=3", "band_masks=1",
    "time_masks=1", "mask_share=0.2", "patience=5", "spectral_subtraction=1", "pitch_shift=0.1",
    "time_stretch=0.2",
)  # fmt: skip
KEYS["classifier"] = _HEARD
SHARED = ("method.species_balance=0.5", "seed=4", "optim.learning_rate=0.5", "optim.total_samples=77")


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """No presets, caches or clusters but those of this repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIRDSD_CONFIGS", str(folder / "configs"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "BIRDSD_SITE"))]:
            patch.delenv(name)
        yield


@cache
def _codecs() -> dict[str, SpectrogramCodec]:
    found = config.presets()["codec"]
    made = {one.name: config.compose("prepare", [f"codec={one.name}"]).codec for one in found}
    return {name: SpectrogramCodec.from_config(codec) for name, codec in made.items()}


def _mark(settled: schema.TrainConfig, codec: str) -> str:
    models = {"autoencoder": "", "source": settled.model.source or ""}
    if settled.model.clip:
        models["clip"] = settled.model.clip
    return config.signature(settled, **models, data=_codecs()[codec].fingerprint())


def signatures(folder: Path) -> dict[str, Any]:
    """The signature of every model, method and codec together, and of one key of each method changed."""
    found: dict[str, Any] = {f"codec={name}": codec.fingerprint() for name, codec in _codecs().items()}
    for model in (preset.name for preset in config.presets()["model"]):
        for form, settings in FORMS.items():
            settled = config.compose("train", [f"model={model}", *settings])
            title = f"model={model}: {form}"
            found[title] = {codec: _mark(settled, codec) for codec in _codecs()}
            if model == "tiny":
                found[f"{title}, changed"] = _of_keys(settled, form)
    return found


def _of_keys(settled: schema.TrainConfig, form: str) -> dict[str, str]:
    """By setting: the signature with that one changed."""
    found = {}
    for setting in (*(f"method.{one}" for one in KEYS.get(form, ())), *SHARED):
        key, _, value = setting.partition("=")
        found[setting] = _mark(config.altered("train", settled, key, value), "birdsong-tiny")
    return found


def typed(folder: Path) -> dict[str, Any]:
    """The signature of each form with all of its own keys typed at once, as `compose` settles them."""
    found = {}
    for form, keys in KEYS.items():
        settings = ["model=tiny", *FORMS[form], *(f"method.{one}" for one in keys)]
        found[" ".join(settings)] = _mark(config.compose("train", settings), "birdsong-tiny")
    return found


def keys(folder: Path) -> dict[str, Any]:
    """`birdsd run JOB --keys --json` of every job, and of each preset what it says of its group."""
    found: dict[str, Any] = {}
    for job in schema.JOBS:
        said = json.loads(printed("run", job, "--keys", "--json"))
        # A line a section; all jobs have the same machine, which the first of them stands for.
        for name, value in said.items():
            found[f"{job} {name}"] = value
    for group, presets in config.presets().items():
        job = next(job for job, groups in schema.GROUP_DEFAULTS.items() if group in groups)
        for preset in presets:
            settled = config.compose(job, [f"{group}={preset.name}"])
            found[f"{group}={preset.name}"] = config.as_listed(settled)[group]
    return found


def printed(*words: str) -> str:
    """What the command line prints for these words, which it must like."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main.main(list(words))
    assert status == 0, words
    return out.getvalue()


def json_shapes(folder: Path) -> dict[str, Any]:
    """Keys and types of what the verbs print and runs keep; see `tests.golden.runs`."""
    return shapes(folder)


def losses(folder: Path) -> dict[str, Any]:
    """The losses of the tiny runs, by run and position."""
    return {
        name: {str(position): loss for position, loss in run.losses.items()}
        for name, run in made_runs(folder).items()
    }


def pages(folder: Path) -> dict[str, Any]:
    """What the pages say: every line of theirs once, with its numbers left open."""
    codec = SpectrogramCodec(name="test", rate_hz=16000, bands=64, fmin_hz=200, fmax_hz=8000, frames=128)
    place = folder / "pages"
    (place / "shards").mkdir(parents=True)
    splits = {"train": range(8), "validation": range(8, 11), "test": range(11, 14)}
    written = samples(place, codec, write_shards(place / "shards", codec, splits))
    lines = {
        f"{name}: {line.replace(str(folder.resolve()), '')}"
        for name, path in written.items()
        for line in seen(path.read_text(encoding="utf-8"))
        if "optim.total_samples=" not in line  # all keys with their values: `keys` pins them
    }
    return {re.sub(r"[0-9]+([.,:][0-9]+)*", "#", line): True for line in lines}


# The sentences themselves, of the errors that are met most often: elsewhere tests hold kinds and values.
MESSAGES = (
    "insepct shards/",
    "run trian",
    "run train",
    "run train modle=tiny",
    "run train optim.learning_rat=1",
    "run train optim.global_batch=many",
    "run train machine=lapto",
    "run train method=full method.rank=4",
    "run train data.shards={folder}/nowhere",
    "run prepare codec.bands=30 codec.n_fft=8 data.recordings=x data.shards=y",
    "run generate run=nothing prompt=x runs={folder}/none",
    "inspect {folder}/none",
    "plan train --gpu H10O",
    "status nothing --runs {folder}/none",
    "submit demo site=local",
)


def texts(folder: Path) -> dict[str, Any]:
    """Whole messages, by what was typed; what `verify` prints where all is well; answers and assumptions."""
    (folder / "none").mkdir(parents=True)
    found: dict[str, Any] = {}
    for typed in MESSAGES:
        with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
            main.main(typed.format(folder=folder).split())
        text = said.getvalue().replace(str(folder), "{folder}")
        found[typed] = re.sub("nearest of [0-9]+", "nearest of #", text)  # it grows with every key
    found["verify"] = result_text(verified(folder / "verified"))
    return found | answers() | assumptions()


KINDS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "signatures": signatures,
    "typed": typed,
    "keys": keys,
    "shapes": json_shapes,
    "losses": losses,
    "pages": pages,
    "texts": texts,
}
