"""Upscalers that others trained: found by their tensors, measured beside bicubic, and refused where they are
not what they should be. No file of them is run."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from birdsd.diffusion.formats import upscalers as module
from birdsd.diffusion.formats.upscalers import measured_on, read_foreign
from birdsd.diffusion.upscaling.networks import COMPACT, RRDB, Shape
from birdsd.errors import Damaged, Unsupported
from birdsd.shards.index import ShardIndex
from tests.support.errors import refuses
from tests.support.fine import noisy
from tests.support.tiny import CODEC, make_shards

# A coarse grid that has finer ones; nothing lies beyond half the rate.
ROUGH = dataclasses.replace(CODEC, name="rough", fmin_hz=500.0, fmax_hz=7500.0)


def image(frames: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(20, 256, (1, ROUGH.bands, frames), dtype=np.uint8)


def stored(path: Path, tensors: dict[str, torch.Tensor], wrapped: str = "", prefix: str = "") -> Path:
    named = {prefix + name: one for name, one in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(named, str(path))
    else:
        torch.save({wrapped: named, "epoch": 3} if wrapped else named, path)
    return path


@pytest.mark.parametrize(
    ("name", "wrapped", "prefix"),
    [
        ("net.safetensors", "", ""),
        ("net.pth", "params_ema", ""),
        ("net.pth", "params", "module."),
        ("net.ckpt", "", ""),
    ],
)
@pytest.mark.parametrize(
    "shape", [Shape(COMPACT, 4, 1, 2, 3), Shape(COMPACT, 4, 2, 4, 1), Shape(RRDB, 4, 1, 4, 3, 4)], ids=str
)
def test_a_file_of_the_family_is_used(shape: Shape, name: str, wrapped: str, prefix: str, tmp_path) -> None:
    weights = noisy(shape)
    upscaler = read_foreign(stored(tmp_path / name, weights, wrapped, prefix), ROUGH)
    made = upscaler.image(image())
    assert made.shape == (1, ROUGH.bands * shape.scale, 12 * shape.scale)
    assert upscaler.codec.hop * shape.scale == ROUGH.hop and upscaler.codec.clip_s == ROUGH.clip_s
    network = shape.build()
    network.load_state_dict(weights)
    values = upscaler.values(torch.from_numpy(image())[:, None])
    with torch.no_grad():
        said = network((values / 255).expand(-1, shape.channels, -1, -1)).mean(1, keepdim=True) * 255
    expected = upscaler.levels.finished(said, values, shape.scale)
    np.testing.assert_array_equal(made[0], expected[0, 0].numpy())


def test_it_is_measured_beside_bicubic(tmp_path) -> None:
    """On the shards' own pictures; a network that adds noise is worse, and the line says so."""
    index = ShardIndex.open(make_shards(tmp_path / "shards", ROUGH))
    shape = Shape(COMPACT, 4, 1, 2, 1)
    wild = {name: one * 4 for name, one in noisy(shape).items()}
    good = {name: torch.zeros_like(one) for name, one in wild.items()}  # what is left is the nearest pixel
    results = {
        name: measured_on(read_foreign(stored(tmp_path / f"{name}.pth", one), ROUGH), index)
        for name, one in (("good", good), ("wild", wild))
    }
    assert results["good"].pictures == 4
    assert results["good"].distance_db < results["wild"].distance_db
    assert results["good"].bicubic_db == results["wild"].bicubic_db > 0
    line = results["wild"].line("upscale=wild.pth")
    assert "ABOVE bicubic's" in line and line.startswith("upscale=wild.pth: log-spectral distance")


class _Runs:
    def __reduce__(self):
        return (os.mkdir, ("it-ran",))


def test_what_else_is_in_a_pickle_is_not_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in (("net.pth", {"params": _Runs()}), ("old.pth", [_Runs()])):
        torch.save(content, name)
        with refuses(name, "only tensors and plain values", kind=Unsupported):
            read_foreign(Path(name), ROUGH)
    for protocol, rule, kind in (
        (2, "only tensors and plain values", Unsupported),
        (4, "of another kind", Damaged),  # none that torch reads
    ):
        with open("raw.pth", "wb") as stream:
            pickle.dump(_Runs(), stream, protocol=protocol)
        with refuses("raw.pth", rule, kind=kind):
            read_foreign(Path("raw.pth"), ROUGH)
    assert not Path("it-ran").exists()


def test_a_torchscript_program_is_refused_unread(tmp_path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.script(torch.nn.Conv2d(3, 3, 3)).save(str(path))
    with refuses(str(path), "TorchScript", "no code out of files", ".safetensors", kind=Unsupported):
        read_foreign(path, ROUGH)


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        (Shape(COMPACT, 4, 1, 3, 3), "3 times"),
        (Shape(COMPACT, 4, 1, 1, 3), "1 times"),
        (Shape(RRDB, 4, 1, 1, 3, 4), "1 times"),
        (Shape(COMPACT, 4, 1, 2, 4), "4 channels"),
        (Shape(COMPACT, 4, 1, 2, 2), "2 channels"),
    ],
    ids=str,
)
def test_another_scale_or_number_of_channels_is_refused(shape: Shape, what: str, tmp_path) -> None:
    path = stored(tmp_path / "net.safetensors", noisy(shape))
    with refuses((str(path), what), kind=Unsupported):
        read_foreign(path, ROUGH)


def test_a_codec_without_a_finer_grid_is_refused(tmp_path) -> None:
    path = stored(tmp_path / "net.safetensors", noisy(Shape(COMPACT, 4, 1, 2, 1)))
    with refuses("'test'", kind=Unsupported):
        read_foreign(path, CODEC)


def test_damaged_and_empty_files_are_refused(tmp_path) -> None:
    weights = noisy(Shape(COMPACT, 4, 1, 2, 1))
    broken = {**weights, "body.0.bias": weights["body.0.bias"] * float("inf")}
    with refuses(("inf.safetensors", "body.0.bias"), kind=Damaged):
        read_foreign(stored(tmp_path / "inf.safetensors", broken), ROUGH)
    short = stored(tmp_path / "short.safetensors", weights)
    short.write_bytes(short.read_bytes()[:-40])
    with refuses("short.safetensors", kind=Damaged):
        read_foreign(short, ROUGH)
    torch.save({"epoch": 1}, tmp_path / "none.pth")
    with refuses("none.pth", kind=Damaged):
        read_foreign(tmp_path / "none.pth", ROUGH)


def test_other_architectures_are_spandrels_or_refused_by_name(tmp_path) -> None:
    path = stored(tmp_path / "other.safetensors", {"layers.0.weight": torch.zeros(3, 3)})
    try:
        import spandrel  # noqa: F401
    except Exception:
        with refuses((str(path), "layers.0.weight"), "pip install spandrel", kind=Unsupported):
            read_foreign(path, ROUGH)
    else:
        with refuses((str(path), "spandrel"), kind=Unsupported):
            read_foreign(path, ROUGH)


def test_a_network_of_spandrels_is_asked_picture_by_picture(tmp_path, monkeypatch) -> None:
    """An architecture that is not ours: with spandrel, where it can be imported."""
    try:
        import spandrel
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit this torch
        pytest.skip(f"spandrel cannot be imported: {error}")
    monkeypatch.setattr(module, "recognised", lambda tensors: None)  # ours are in spandrel, too
    shape = Shape(COMPACT, 4, 2, 2, 3)
    upscaler = read_foreign(stored(tmp_path / "net.safetensors", noisy(shape)), ROUGH)
    monkeypatch.undo()
    ours = read_foreign(tmp_path / "net.safetensors", ROUGH)
    apart = np.abs(upscaler.image(image()).astype(int) - ours.image(image()))
    assert spandrel.__name__ == "spandrel" and np.median(apart) <= 1
