"""What values mean, which grids fit, and that each coarse cell is as loud as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from birdsd.config import compose
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import Tally, bicubic, detail_db, spectral_distance_db
from birdsd.errors import Mismatch, Unsupported
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.codec.grids import Grids, coarser, finer
from tests.support.errors import refuses
from tests.support.fine import FINE
from tests.support.tiny import CODEC

SOFT = dataclasses.replace(FINE, name="soft", intensity="log1p", floor_db=-75.0)


def preset(name: str) -> SpectrogramCodec:
    return SpectrogramCodec.from_config(compose("prepare", [f"codec={name}"]).codec)


def powers(codec: SpectrogramCodec, image: np.ndarray, scale: int) -> np.ndarray:
    """The mean power of each cell, by the codec's own magnitudes: [bands / scale, frames / scale]."""
    magnitude = codec.dequantise(image)[0].T[::-1].astype(np.float64)
    bands, frames = (side // scale for side in magnitude.shape)
    return np.square(magnitude).reshape(bands, scale, frames, scale).mean(axis=(1, 3))


@pytest.mark.parametrize("codec", [FINE, SOFT], ids=lambda one: one.name)
def test_values_mean_what_the_codec_says(codec) -> None:
    image = np.arange(1, 256, dtype=np.uint8).reshape(1, 1, 255).repeat(codec.bands, axis=1)
    levels = Levels.of(codec)
    magnitude = levels.magnitude(torch.from_numpy(image).float()[None])[0]
    np.testing.assert_allclose(magnitude[0, 0], codec.dequantise(image)[0, :, 0], rtol=1e-4)
    back = levels.values(magnitude)
    np.testing.assert_allclose(back, image, atol=1e-2)
    louder = levels.moved(torch.tensor([0.0, 100.0]), torch.tensor(6.0))
    assert louder[0] == 0
    assert levels.decibels(louder)[1] - levels.decibels(torch.tensor(100.0)) == pytest.approx(6, abs=1e-3)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("codec", [FINE, SOFT], ids=lambda one: one.name)
def test_every_cell_is_as_loud_as_it_was(codec, scale: int) -> None:
    """Whatever a network says, after rounding to bytes, too: within 0.2 dB, and silence stays silence."""
    levels, draw = Levels.of(codec), torch.Generator().manual_seed(0)
    coarse = torch.randint(30, 230, (1, 1, 16, 16), generator=draw).float()
    coarse[..., 3:5, 3:9] = 0
    said = 400 * torch.rand(1, 1, 16 * scale, 16 * scale, generator=draw) - 70
    made = levels.finished(said * 0.2 + 80, coarse, scale)
    image = made[0].byte().numpy()
    wide = dataclasses.replace(codec, bands=16 * scale, frames=16 * scale)
    found = powers(wide, image, scale)
    wanted = powers(dataclasses.replace(codec, bands=16, frames=16), coarse[0].byte().numpy(), 1)
    silent = coarse[0, 0].numpy() == 0
    assert not made[0, 0].numpy().reshape(16, scale, 16, scale).transpose(0, 2, 1, 3)[silent].any()
    error = 10 * np.log10(found[~silent] / wanted[~silent])
    assert np.abs(error).max() < 0.2


def test_energy_is_a_function_that_gradients_go_through() -> None:
    for codec in (FINE, SOFT):
        levels = Levels.of(codec)
        said = torch.linspace(-300, 500, 64).reshape(1, 1, 8, 8).requires_grad_()
        made = levels.with_energy(said, torch.zeros(1, 1, 4, 4), 2)
        made.sum().backward()
        assert made.isfinite().all() and said.grad.isfinite().all()


def test_the_mean_power_of_cells_is_what_a_coarse_picture_shows() -> None:
    image = np.random.default_rng(0).integers(1, 256, (1, FINE.bands, FINE.frames), dtype=np.uint8)
    levels = Levels.of(FINE)
    cells = levels.cells(torch.from_numpy(image).float()[None], 2)
    np.testing.assert_allclose(levels.magnitude(cells)[0, 0].square(), powers(FINE, image, 2), rtol=1e-3)


# -- grids --------------------------------------------------------------------------------------------------


def test_birdsong_half_is_half_of_birdsong() -> None:
    whole, half = preset("birdsong"), preset("birdsong-half")
    grids = Grids.of(whole, half)
    assert grids.scale == 2 and half.clip_s == whole.clip_s and half.image_shape == (1, 128, 256)
    for made, preset_of_it in ((coarser(whole, 2), half), (finer(half, 2), whole)):
        decoding = {name: getattr(preset_of_it, name) for name in whole.DECODING_ONLY}
        assert dataclasses.replace(made, **decoding) == preset_of_it
    assert grids.offset_db == pytest.approx(2.2, abs=0.4)  # noise reads 2.9 dB louder in it, a tone 1.5


def test_a_sound_reads_alike_in_both_grids_once_the_offset_is_off() -> None:
    grids = Grids.of(preset("birdsong"), preset("birdsong-half"))
    time = np.arange(grids.fine.samples_per_clip) / grids.fine.rate_hz
    chirp = 0.1 * np.sin(2 * np.pi * (2000 + 1500 * time) * time)
    sound = (chirp + 1e-3 * np.random.default_rng(1).standard_normal(len(time))).astype(np.float32)[None]
    read, cells = (
        Levels.of(grids.fine).cells(torch.from_numpy(grids.fine.image_of(sound)).float()[None], 2),
        torch.from_numpy(grids.coarse.image_of(sound)).float()[None],
    )
    levels = Levels.of(grids.fine)
    loud = levels.decibels(read) > -50
    apart = (levels.decibels(cells) - grids.offset_db - levels.decibels(read))[loud]
    assert loud.sum() > 200 and abs(float(apart.mean())) < 1.5 and apart.abs().median() < 3


@pytest.mark.parametrize("name", ["birdsong-tiny", "birdsong-small", "birdsong-half", "birdsong-3s"])
def test_what_an_error_advises_fits(name: str) -> None:
    coarse = preset(name)
    with pytest.raises(Mismatch) as caught:
        Grids.of(preset("birdsong-3s"), coarse)
    assert f"'{name}'" in caught.value.problem and "'birdsong-3s'" in caught.value.problem
    words = caught.value.hint.partition(" with ")[2].split()
    assert words[0].startswith("codec.")
    advised = SpectrogramCodec.from_config(compose("prepare", [f"codec={name}", *words]).codec)
    assert Grids.of(advised, coarse).scale == 2


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [
        (FINE, FINE),
        (CODEC, FINE),
        (dataclasses.replace(FINE, rate_hz=32000, n_fft=512), CODEC),
        (dataclasses.replace(FINE, channels=2), CODEC),
        (dataclasses.replace(FINE, hop_ms=2.0), CODEC),
        (dataclasses.replace(FINE, fmax_hz=4000.0), CODEC),
        (dataclasses.replace(FINE, bands=96), CODEC),
    ],
)
def test_grids_that_do_not_fit_are_refused_by_both_names(fine, coarse) -> None:
    fine, coarse = dataclasses.replace(fine, name="dense"), dataclasses.replace(coarse, name="rough")
    with refuses(("'dense' of SHARDS", "'rough' of MODEL"), kind=Mismatch):
        Grids.of(fine, coarse, ("SHARDS", "MODEL"))


def test_a_codec_without_levels_has_no_finer_grid() -> None:
    for codec in (preset("riffusion"), dataclasses.replace(CODEC, scale="mel", fmin_hz=200.0)):
        with refuses(f"'{codec.name}'", "intensity=decibel", kind=Unsupported):
            finer(codec, 2)
    with refuses(("'test'", " 2 times"), "codec=birdsong-half", kind=Unsupported):
        finer(CODEC, 2)  # it would begin below 0 Hz
    with refuses(" x 33 ", "method.scale=2", kind=Mismatch):
        coarser(dataclasses.replace(FINE, frames=33), 2)


# -- measures -----------------------------------------------------------------------------------------------


def test_measures_against_numpy() -> None:
    levels, draw = Levels.of(FINE), np.random.default_rng(0)
    truth, made = (draw.integers(1, 256, (2, 1, 8, 6)).astype(np.float32) for _ in range(2))
    per_db = 255 / (FINE.ceiling_db - FINE.floor_db)
    apart = (made - truth) / per_db
    wanted = np.sqrt(np.square(apart).mean(axis=2)).mean(axis=(1, 2))
    found = spectral_distance_db(levels, torch.from_numpy(made), torch.from_numpy(truth))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    detail = np.abs(np.diff(truth, axis=3)).mean(axis=(1, 2, 3)) / per_db
    np.testing.assert_allclose(detail_db(levels, torch.from_numpy(truth)), detail, rtol=1e-4)


def test_bicubic_and_the_truth_measure_as_they_should() -> None:
    levels = Levels.of(FINE)
    truth = torch.randint(1, 256, (1, 1, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    coarse = levels.cells(truth, 2)
    for made, distance, gain, detail in ((truth, 0.0, 1.0, 1.0), (bicubic(coarse, 2), None, 0.0, None)):
        tally = Tally(levels, 2)
        tally.add(made, truth, coarse)
        tally.add(made, truth, coarse)
        result = tally.result()
        assert result.pictures == 2 and result.gain == pytest.approx(gain)
        assert distance is None or result.distance_db == pytest.approx(distance, abs=1e-4)
        assert detail is None or result.detail == pytest.approx(detail)
        assert result.bicubic_detail < 0.9
