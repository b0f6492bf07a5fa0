"""An exported folder: loaded by diffusers alone, with the same latents, credits and a codec."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from birdsd.diffusion.export import write_folder
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.generate import Generator, Request
from birdsd.files import write_text
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.tiny import CODEC

WITHOUT_BIRDSD = """
import sys, torch
from diffusers import StableDiffusionPipeline
folder, noise, out = sys.argv[1:]
pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
pipeline.set_progress_bar_config(disable=True)
noise = torch.load(noise, weights_only=True)
settings = dict(num_inference_steps=4, guidance_scale=3.0, negative_prompt=["rain"] * 2, latents=noise)
prompt = ["an American Robin singing", "a Eurasian Wren"]
latents = pipeline(prompt, output_type="latent", **settings).images
images = pipeline(prompt, output_type="pil", **settings).images
assert not any(name.split(".")[0] == "birdsd" for name in sys.modules), "birdsd was imported"
import numpy
numpy.savez(out, latents=latents.numpy(), images=numpy.stack([numpy.array(image) for image in images]))
"""


def test_diffusers_alone_makes_the_same_latents_and_pictures(pipeline_folder, tmp_path):
    request = Request(
        ("an American Robin singing", "a Eurasian Wren"), seed=4, steps=4, negative_prompt="rain"
    )
    noise = sampling.initial_noise(4, [0, 0], (4, 8, 16))
    torch.save(noise, tmp_path / "noise.pt")
    command = [sys.executable, "-c", WITHOUT_BIRDSD, str(pipeline_folder), str(tmp_path / "noise.pt"),
               str(tmp_path / "out.npz")]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = np.load(tmp_path / "out.npz")
    model = Generator(pipeline_folder)
    ours = model.latents(request, request.prompts, [0, 0])
    assert np.allclose(ours.numpy(), theirs["latents"], atol=1e-5)
    images = sampling.decode_images(model.pipeline.vae, ours)
    assert images.shape == (2, 32, 64, 3)
    assert np.abs(images.astype(int) - theirs["images"].astype(int)).max() <= 1


def test_the_folder_holds_the_weights_in_float32_and_no_pickle(pipeline_folder, trained):
    _, parts = trained
    stored = load_file(pipeline_folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(stored[k], v) for k, v in parts.learner.unet.state_dict().items())
    assert {v.dtype for v in stored.values()} == {torch.float32}
    assert not [p for p in pipeline_folder.rglob("*") if p.suffix in (".bin", ".pt", ".ckpt", ".pkl")]
    assert {"vocab.json", "merges.txt"} <= {p.name for p in (pipeline_folder / "tokenizer").iterdir()}
    index = json.loads((pipeline_folder / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline" and index["safety_checker"] == [None, None]


@pytest.mark.parametrize("which", ["pipeline_folder", "autoencoder_folder"])
def test_codec_and_credits_travel_with_the_model(which, request):
    folder = request.getfixturevalue(which)
    assert SpectrogramCodec.from_json(json.loads((folder / "codec.json").read_text())) == CODEC
    facts = json.loads((folder / "training.json").read_text())
    assert facts["species"] == ["American Robin", "Eurasian Wren"]
    assert facts["licences"] == {"CC BY 4.0": 6, "CC0": 6} and facts["synthetic"] is False
    with open(folder / "recordings.csv", newline="") as stream:
        rows = {row["recording_id"]: row for row in csv.DictReader(stream)}
    assert (
        len(rows) == 12
        and rows["XC3"]["recordist"] == "Recordist 3"
        and rows["XC3"]["licence"] == "CC BY 4.0"
    )
    card = (folder / "README.md").read_text()
    assert "CC BY 4.0 | 6" in card and "- Eurasian Wren" in card


def test_an_export_that_fails_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "export"
    write_folder(folder, lambda partial: write_text(partial / "a", "old"))

    def fail(partial):
        (partial / "a").write_text("new")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_folder(folder, fail)
    assert (folder / "a").read_text() == "old"
    write_folder(folder, lambda partial: None)
    assert list(folder.iterdir()) == [] and list(tmp_path.iterdir()) == [folder]
