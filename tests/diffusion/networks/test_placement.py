"""Where the networks are while clips are made changes nothing about the clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from birdsd.config import compose
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.networks.placement import Placement
from birdsd.errors import UnknownName
from tests.support.errors import refuses

REQUEST = Request(("an American Robin", "a Eurasian Wren"), steps=2)


def pictures(folder, placement: Placement | None = None) -> np.ndarray:
    model = Generator(folder, placement=placement)
    return model.images(REQUEST, REQUEST.prompts, [0, 0])


@pytest.fixture(scope="module")
def plain(pipeline_folder) -> np.ndarray:
    return pictures(pipeline_folder)


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloading_gives_the_same_pictures(pipeline_folder, plain, offload: str) -> None:
    assert np.array_equal(pictures(pipeline_folder, Placement(offload)), plain)


def test_sliced_attention_differs_by_rounding(pipeline_folder, plain) -> None:
    made = pictures(pipeline_folder, Placement(attention="sliced"))
    assert np.abs(made.astype(int) - plain).max() <= 1 and plain.std() > 1


def test_tiles_are_smaller_than_the_picture(pipeline_folder, plain, monkeypatch) -> None:
    """Every tile has norms of its own, so that its pictures are others: only for those that do not fit."""
    model = Generator(pipeline_folder, placement=Placement(vae_tiling=True))
    vae = model.pipeline.vae
    assert vae.use_tiling
    decoder, shapes = vae.decoder.forward, []
    monkeypatch.setattr(vae.decoder, "forward", lambda z: (shapes.append(tuple(z.shape[2:])), decoder(z))[1])
    made = model.images(REQUEST, REQUEST.prompts[:1], [0])
    height, width = model.latent_shape()[1:]
    assert made.shape[1:] == plain.shape[1:] and len(shapes) > 1
    assert all(h * w < height * width for h, w in shapes)


def test_layer_by_layer_the_unet_leaves_the_memory(pipeline_folder) -> None:
    """Its weights wait in a map of host memory; on the device (here as on a GPU) is a layer at a time."""
    model = Generator(pipeline_folder, placement=Placement("sequential"))
    assert {parameter.device.type for parameter in model.pipeline.unet.parameters()} == {"meta"}
    assert {parameter.device.type for parameter in model.pipeline.vae.parameters()} == {"cpu"}


def test_a_network_is_on_the_device_only_while_it_works(pipeline_folder, monkeypatch) -> None:
    model = Generator(pipeline_folder, placement=Placement("model"))
    moves: list[tuple[str, str]] = []
    for name in ("text_encoder", "unet", "vae"):
        network = getattr(model.pipeline, name)
        monkeypatch.setattr(network, "to", lambda place, name=name: moves.append((name, str(place))))
    model.device = "the GPU"  # type: ignore[assignment]
    monkeypatch.setattr(Generator, "latents", lambda self, *_, **__: torch.zeros(1, 4, 8, 16))
    model.images(REQUEST, REQUEST.prompts[:1], [0])
    assert moves == [("vae", "the GPU"), ("vae", "cpu")]


def test_the_machine_says_it(pipeline_folder) -> None:
    machine = compose("generate", ["machine=laptop-4gb"]).machine
    assert Placement.of(machine).offload == "model"
    assert Placement.of(compose("generate", ["machine=smoke"]).machine) == Placement()
    with refuses(("'modle'", "machine.offload_generation"), "'model'", kind=UnknownName):
        Placement("modle")
    with refuses(("'fast'", "machine.attention"), kind=UnknownName):
        Placement(attention="fast")
    assert torch.get_default_dtype() == torch.float32
