"""A scene whose songs a small model makes, and an upscaler makes fine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from birdsd.cli import main
from tests.support.fine import upscaler_folder
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained


def made(place: Path, *words: str) -> Path:
    common = ("machine=smoke", "judge=none", "tries=1", "steps=1", "picture=false", "stems=false")
    assert main.main(["run", "scene", f"out={place}", *common, *words]) == 0
    return next(place.glob("*/recipe.json")).parent


def heard(folder: Path) -> np.ndarray:
    return soundfile.read(next(folder.glob("*.flac")))[0]


def test_its_songs_are_upscaled_and_its_recipe_says_so(pipeline_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    upscaler = upscaler_folder(tmp_path / "upscaler")
    asked = (f"run={pipeline_folder}", "prompt=an American Robin", "seed=1")
    coarse = made(tmp_path / "coarse", *asked)
    fine = made(tmp_path / "fine", *asked, f"upscale={upscaler}", "upscale.sharpness=0.5")
    told = json.loads((fine / "recipe.json").read_text())
    assert told["settings"]["upscale"] == str(upscaler) and told["settings"]["upscale_sharpness"] == 0.5
    before = json.loads((coarse / "recipe.json").read_text())
    assert told["identities"]["model"] != before["identities"]["model"], "they are not the same songs"
    assert np.abs(heard(fine)).max() > 0
    assert heard(fine).shape != heard(coarse).shape or not np.array_equal(heard(fine), heard(coarse))
    again = made(tmp_path / "again", f"recipe={fine / 'recipe.json'}")
    assert np.array_equal(heard(again), heard(fine))
