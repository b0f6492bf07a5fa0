"""A classifier in use: loaded without drawing weights that a file gives, heard without new memory."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion.classifiers import network as networks
from birdsd.diffusion.classifiers.folder import Classifier, load_classifier, write_classifier
from birdsd.diffusion.classifiers.levels import BANDS, Standard
from birdsd.diffusion.classifiers.network import build_network
from birdsd.diffusion.classifiers.place import WEIGHTS
from birdsd.files import write_json
from tests.support.tiny import CODEC


def _written(folder, kind: str):
    settings = {"network": kind, "classes": 3, "width": 8}
    torch.manual_seed(5)
    network = build_network(settings).eval()
    if kind == "cnn":
        network.settle(torch.randn(4, 1, BANDS, 48))
    plain = Standard(-80.0, True, (0.0,) * BANDS, 1.0)
    made = Classifier(network, settings, ("a", "b", "c"), "bce", plain, CODEC, (0.5,) * 3)
    write_classifier(folder, made, {})
    write_json(folder / "codec.json", CODEC.to_json())
    return network


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_a_file_gives_every_weight_and_none_is_drawn(tmp_path, kind):
    trained = _written(tmp_path, kind)
    before = torch.get_rng_state()
    loaded = load_classifier(tmp_path).network
    assert torch.equal(torch.get_rng_state(), before), "weights were drawn to be thrown away"
    wanted, found = trained.state_dict(), loaded.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    held = [*loaded.parameters(), *loaded.buffers()]
    assert not any(one.is_meta or one.requires_grad or one.dtype != torch.float32 for one in held)


def test_weights_of_half_precision_compute_in_float32(tmp_path):
    _written(tmp_path, "cnn")
    half = {name: weight.half() for name, weight in load_file(str(tmp_path / WEIGHTS)).items()}
    save_file(half, str(tmp_path / WEIGHTS))
    loaded = load_classifier(tmp_path)
    assert {one.dtype for one in loaded.network.parameters()} == {torch.float32}
    assert loaded.hear(torch.rand(2, BANDS, 48).numpy()).logits.shape == (2, 3)


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_what_is_heard_is_the_same_to_the_bit_where_gradients_are_kept(kind, monkeypatch):
    torch.manual_seed(0)
    network = build_network({"network": kind, "classes": 3, "width": 16}).eval()
    levels, written_over = torch.randn(2, 1, BANDS, 64), []
    silu = networks.functional.silu

    def watched(x, inplace=False):
        written_over.append(inplace)
        return silu(x, inplace=inplace)

    monkeypatch.setattr(networks.functional, "silu", watched)
    learning = network(levels).logits
    learning.sum().backward()  # what backward needs is still there
    assert not any(written_over)
    written_over.clear()
    kept = levels.clone()
    with torch.no_grad():
        using = network(levels).logits
    assert written_over and all(written_over)
    assert torch.equal(using, learning) and torch.equal(levels, kept)


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_a_network_in_use_says_what_it_said_as_it_learnt(kind, order, monkeypatch):
    """Its stem hears the place of the bands once for all clips: the same, in clips and in frames."""
    torch.manual_seed(0)
    network = build_network({"network": kind, "classes": 3, "width": 16}).eval()
    if kind == "cnn":
        network.settle(torch.randn(4, 1, BANDS, 48))
    levels, shapes = torch.randn(5, 1, BANDS, 64), []
    conv2d = networks.functional.conv2d

    def watched(x, *rest, **named):
        shapes.append(tuple(x.shape[:2]))
        return conv2d(x, *rest, **named)

    monkeypatch.setattr(networks.functional, "conv2d", watched)
    learning = network(levels)
    assert shapes[0] == (5, 2), "what learns goes through the stem itself: ZeRO gathers its weights there"
    shapes.clear()
    network.requires_grad_(False).to(memory_format=order)
    with torch.no_grad():
        using = network(levels)
    assert shapes[:2] == [(1, 1), (5, 1)]
    for name in ("logits", "embedding", "frames"):
        wanted, found = getattr(learning, name), getattr(using, name)
        assert (wanted is None) == (found is None) == (name == "frames" and kind == "cnn")
        if wanted is not None:
            torch.testing.assert_close(found, wanted.detach(), rtol=0, atol=1e-4)
