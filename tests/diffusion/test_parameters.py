"""How much learns, told from names and shapes alone, is what the methods themselves make learn."""

from __future__ import annotations

import subprocess
import sys
from math import prod

import pytest

from birdsd.config import compose
from birdsd.diffusion.parameters import implied_shapes, learning_count
from birdsd.method_facts import built_in
from birdsd.planning.trace import trace_step
from birdsd.runs.models.hub import weights_shapes
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.tiny import SPECIES
from tests.support.untrained import make_model

BASE = ("model.init=pretrained", "model.source=not/here")
# By settings: how near an estimate from a preset comes (it leaves out biases and norms); 0: to the last one.
WAYS = {
    "method=autoencoder": 0.03,
    "method=full": 0.03,
    "method=full method.learns=[unet.*attn2*.weight]": 0.03,
    " ".join(("method=full", *BASE)): 0.03,
    " ".join(("method=lora", *BASE)): 0,
    " ".join(("method=lora method.rank=3 method.targets=[convolutions]", *BASE)): 0,
    " ".join(("method=textual_inversion", *BASE)): 0,
    " ".join(("method=textual_inversion method.tokens=style method.vectors=3", *BASE)): 0,
    " ".join(("method=dreambooth", *BASE)): 0,
    " ".join(("method=dreambooth method.base_method=full", *BASE)): 0.03,
    " ".join(("method=clip", *BASE)): 0.03,
    "method=upscaler": 0,
    "method=upscaler method.adversary_weight=0.5": 0,
    "method=upscaler method.adversary_weight=0 method.features=7 method.depth=3 method.scale=4": 0,
    "method=upscaler method.architecture=rrdb method.features=8 method.depth=2 method.growth=5": 0,
}


def taught(settings: list[str]) -> int:
    """Parameters that the method itself makes learn, on networks without weights, for two species."""
    config = compose("train", [*settings, "machine.cache_latents=false"])
    codec = SpectrogramCodec.from_config(compose("prepare", ["codec=birdsong-tiny"]).codec)
    return trace_step(config, codec.to_json(), 1, flops=False).learning


@pytest.mark.parametrize("way", WAYS)
def test_an_estimate_from_a_preset_is_what_learns(way: str) -> None:
    settings = ["model=tiny", *way.split(" ")]
    config = compose("train", settings)
    found = learning_count(config, implied_shapes(config.model), len(SPECIES))
    assert found == pytest.approx(taught(settings), rel=WAYS[way] or 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["small", "sd15"])
def test_a_lora_of_a_large_model_is_counted_to_the_last_parameter(model: str) -> None:
    settings = [f"model={model}", "method=lora", *BASE]
    config = compose("train", settings)
    assert learning_count(config, implied_shapes(config.model), 2) == taught(settings)


@pytest.mark.parametrize("way", ["lora", "textual_inversion method.vectors=2", "clip", "full"])
def test_a_folder_of_weights_is_counted_in(way: str, tmp_path) -> None:
    """Biases and norms too, whose names are those of the real files."""
    folder = make_model(tmp_path / "base")
    settings = ["model=tiny", *f"method={way}".split(" "), "model.init=pretrained", f"model.source={folder}"]
    config = compose("train", settings)
    assert learning_count(config, weights_shapes(folder), len(SPECIES)) == taught(settings)


def test_what_does_not_train_has_nothing() -> None:
    config = compose("train", ["model=tiny", "method=aesthetic_gradients", *BASE])
    assert learning_count(config, implied_shapes(config.model), 2) == 0
    assert all({*one.sizes, *one.defaults} <= set(one.keys) for one in built_in())


def test_counting_needs_no_torch() -> None:
    code = "import sys, birdsd.diffusion.parameters, birdsd.checks.saving; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_a_preset_implies_matrices_of_its_own_width() -> None:
    shapes = implied_shapes(compose("train", ["model=sd15"]).model)
    assert shapes["text_encoder"]["text_model.embeddings.token_embedding.weight"] == (49408, 768)
    assert sum(map(prod, shapes["unet"].values())) == pytest.approx(859.5e6, rel=0.02)
