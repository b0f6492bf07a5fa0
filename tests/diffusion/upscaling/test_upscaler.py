"""An upscaler at work: tiles that leave no trace, loops, folders, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion.upscaling import upscaler as module
from birdsd.diffusion.upscaling.folder import holds_upscaler, read_upscaler
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import detail_db
from birdsd.diffusion.upscaling.networks import recognised
from birdsd.diffusion.upscaling.roughness import Example, noise_for, roughened
from birdsd.diffusion.upscaling.upscaler import Upscaler
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, Unsupported
from birdsd.planning.live_tensors import LiveTensors
from tests.support.errors import refuses
from tests.support.fine import FINE, SHAPE, upscaler_folder
from tests.support.tiny import CODEC

WEIGHTS = "upscaler.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return upscaler_folder(tmp_path_factory.mktemp("up") / "export")


def image(frames: int, seed: int = 0, channels: int = 1) -> np.ndarray:
    made = np.random.default_rng(seed).integers(20, 256, (channels, CODEC.bands, frames), dtype=np.uint8)
    made[:, 3:6, : frames // 2] = 0
    return made


def test_tiles_leave_no_trace(folder, monkeypatch) -> None:
    upscaler, given = Upscaler.open(folder, CODEC), image(75)
    whole = upscaler.image(given)
    assert whole.shape == (1, 2 * CODEC.bands, 150)
    for tile in (8, 13, 32):
        monkeypatch.setattr(module, "TILE", tile)
        assert np.array_equal(upscaler.image(given), whole)
    assert not whole[:, 6:12, :74].any()  # nothing is invented where nothing was


def test_memory_does_not_grow_with_a_picture(folder, monkeypatch) -> None:
    monkeypatch.setattr(module, "TILE", 32)
    upscaler, peaks = Upscaler.open(folder, CODEC), []
    for frames in (320, 3200):
        given, live = image(frames), LiveTensors()
        with live:
            upscaler.image(given)
        peaks.append(live.peak_bytes - given.size)
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_picture_smaller_than_a_tile_or_than_what_the_network_sees_is_made(folder, frames: int) -> None:
    upscaler = Upscaler.open(folder, CODEC)
    for loop in (False, True):
        assert upscaler.image(image(frames), loop=loop).shape == (1, 2 * CODEC.bands, 2 * frames)


def test_a_loop_goes_round(folder) -> None:
    upscaler, given = Upscaler.open(folder, CODEC), image(40)
    made = upscaler.image(given, loop=True)
    turned = upscaler.image(np.roll(given, 7, axis=2), loop=True)
    assert np.array_equal(np.roll(made, 14, axis=2), turned)
    assert not np.array_equal(made, upscaler.image(given)), "without it the ends are ends"


def test_channels_are_upscaled_one_by_one(tmp_path) -> None:
    stereo, fine = (dataclasses.replace(one, channels=2) for one in (CODEC, FINE))
    both = Upscaler.open(upscaler_folder(tmp_path / "two", fine=fine, coarse=stereo), stereo)
    one = Upscaler.open(upscaler_folder(tmp_path / "one"), CODEC)
    given = image(20, channels=2)
    made = both.image(given)
    for channel in range(2):
        assert np.array_equal(made[channel : channel + 1], one.image(given[channel : channel + 1]))
    assert both.picture(stereo.to_rgb(given)).shape == (64, 40, 3)


def test_sharpness_goes_from_one_set_of_weights_to_the_other(folder) -> None:
    given = image(16)
    made = {a: Upscaler.open(folder, CODEC, a).image(given) for a in (0.0, 0.5, 1.0)}
    assert not np.array_equal(made[0.0], made[1.0]) and not np.array_equal(made[0.5], made[1.0])
    identities = {Upscaler.open(folder, CODEC, a).identity for a in (0.0, 0.5, 1.0)}
    assert len(identities) == 3
    stored = read_upscaler(folder)
    one, other = stored.sets
    for name, tensor in stored.weights(0.25).items():
        torch.testing.assert_close(tensor, 0.75 * one[name] + 0.25 * other[name])


@pytest.mark.parametrize("sharpness", [-0.1, 1.5, float("nan")])
def test_a_sharpness_beyond_both_is_refused(folder, sharpness: float) -> None:
    with refuses(f"upscale_sharpness={sharpness:g}", "upscale_sharpness=0.5", kind=BadValue):
        Upscaler.open(folder, CODEC, sharpness)


def test_without_an_adversary_there_is_nothing_to_sharpen(tmp_path) -> None:
    plain = upscaler_folder(tmp_path / "plain", sets=1)
    Upscaler.open(plain, CODEC)
    with refuses("upscale_sharpness=0.5", kind=Unsupported):
        Upscaler.open(plain, CODEC, 0.5)


def test_with_one_set_of_weights_sharpness_is_noise_that_the_picture_alone_decides(tmp_path) -> None:
    upscaler = upscaler_folder(tmp_path / "noisy", sets=1, noise_db=3.0)
    given, other = image(40), image(40, seed=1)
    smooth, half, rough = (Upscaler.open(upscaler, CODEC, a) for a in (0.0, 0.5, 1.0))
    assert len({one.identity for one in (smooth, half, rough)}) == 3
    levels = Levels.of(FINE)
    made = {one.noise_db: torch.from_numpy(one.image(given)).float()[None] for one in (smooth, half, rough)}
    details = [float(detail_db(levels, one)) for one in made.values()]
    assert [*made] == [0.0, 1.5, 3.0] and details == sorted(details)
    # Each cell is as loud as it was, and nothing is heard where nothing was.
    coarse = smooth.values(torch.from_numpy(given)[:, None])
    kept = levels.decibels(levels.cells(made[3.0], 2)) - levels.decibels(coarse)
    inside = (coarse > 30) & (coarse < 225)
    assert float(kept[inside].abs().mean()) < 0.1 and not made[3.0][0, 0, 6:12, :38].any()
    # The same again; another picture has another pattern.
    assert np.array_equal(rough.image(given), Upscaler.open(upscaler, CODEC, 1.0).image(given))
    patterns = [rough.image(one).astype(float) - smooth.image(one).astype(float) for one in (given, other)]
    heard = (patterns[0] != 0) & (patterns[1] != 0)
    assert abs(np.corrcoef(patterns[0][heard], patterns[1][heard])[0, 1]) < 0.1


@pytest.mark.parametrize("noise_db", [-1.0, float("nan"), "3", True])
def test_a_noise_that_is_none_is_refused(tmp_path, noise_db) -> None:
    place = upscaler_folder(tmp_path / "one", sets=1)
    told = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**told, "noise_db": noise_db}))
    with refuses(("config.json", f"noise_db={noise_db!r}"), kind=Damaged):
        read_upscaler(place)
    del told["noise_db"]  # from before it was measured
    (place / "config.json").write_text(json.dumps(told))
    assert not read_upscaler(place).sharpens


def test_the_noise_for_a_detail_is_found() -> None:
    """Of pictures that lack noise of a known size; and none for those that are rough already."""
    levels, draw = Levels.of(FINE), torch.Generator().manual_seed(0)
    smooth = torch.rand(2, 1, 8, 32, generator=draw).mul(80).add(90)
    coarse = smooth.round()
    calm = levels.finished(torch.nn.functional.interpolate(coarse, scale_factor=2.0), coarse, 2)
    truth = levels.finished(roughened(levels, calm, coarse + 1, 3.0), coarse, 2)
    assert noise_for(levels, [Example(calm, coarse, truth)], 2, 1.0) == pytest.approx(3.0, rel=0.15)
    assert noise_for(levels, [Example(calm, coarse, truth)], 2) < 2.9
    assert noise_for(levels, [Example(truth, coarse, calm)], 2) == 0


def test_the_folder_is_whole_and_its_files_are_anyones(folder) -> None:
    assert holds_upscaler(folder) and holds_upscaler(folder.parent) and not holds_upscaler(folder / "x")
    names = {path.name for path in folder.iterdir()}
    assert names >= {WEIGHTS, "upscaler-sharp.safetensors", "codec.json", "coarse.json", "README.md"}
    assert recognised(load_file(str(folder / WEIGHTS))) == dataclasses.replace(SHAPE, growth=16)
    card = (folder / "README.md").read_text()
    assert "upscale=" in card and "StableDiffusionPipeline" not in card
    assert read_upscaler(folder).grids.fine == FINE


def test_a_model_of_another_grid_is_refused_by_both_names(folder) -> None:
    with refuses(("'fine'", "'mine'"), kind=Mismatch):
        Upscaler.open(folder, dataclasses.replace(CODEC, name="mine", bands=16))
    quarter = dataclasses.replace(
        CODEC, name="mine", bands=16, hop_ms=16.0, window_ms=32.0, n_fft=512, fmin_hz=200.0, fmax_hz=7800.0
    )
    with refuses(f"upscale={folder}", "'fine'", "'mine'", "method.scale=4", kind=Mismatch):
        Upscaler.open(folder, quarter)


def test_another_kind_of_level_is_translated(folder) -> None:
    """A model of log1p levels, and an upscaler of decibels: as loud in both."""
    soft = dataclasses.replace(CODEC, name="soft", intensity="log1p", floor_db=-75.0)
    given = np.random.default_rng(0).integers(120, 250, (1, CODEC.bands, 24), dtype=np.uint8)
    upscaler = Upscaler.open(folder, soft)
    made = FINE.dequantise(upscaler.image(given))
    power = [10 * np.log10(np.square(one).mean()) for one in (made, soft.dequantise(given))]
    assert power[0] - power[1] == pytest.approx(-upscaler.grids.offset_db, abs=0.2)


@pytest.mark.parametrize("shape", [(1, 31, 20), (1, 32, 0), (32, 20)])
def test_a_picture_of_another_size_is_refused(folder, shape) -> None:
    with refuses(" x ".join(map(str, shape)), "'test'", kind=Mismatch):
        Upscaler.open(folder, CODEC).image(np.zeros(shape, np.uint8))


def test_a_damaged_folder_is_refused(tmp_path) -> None:
    with refuses(str(tmp_path), "method=upscaler", kind=NotFound):
        read_upscaler(tmp_path)
    for number, spoil in enumerate((_cut, _nan, _without_a_layer)):
        place = upscaler_folder(tmp_path / str(number))
        spoil(place / WEIGHTS)
        with refuses(str(place), kind=Damaged):
            read_upscaler(place)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _nan(path: Path) -> None:
    tensors = load_file(str(path))
    tensors["body.0.bias"] = tensors["body.0.bias"] * float("nan")
    save_file(tensors, str(path))


def _without_a_layer(path: Path) -> None:
    tensors = load_file(str(path))
    save_file({name: one for name, one in tensors.items() if name != "body.2.bias"}, str(path))
