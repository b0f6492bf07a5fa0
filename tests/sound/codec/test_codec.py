"""Sound to image and back: exactness, absolute level, round trips, refusals that name what would work."""

import dataclasses
import json
import pickle
import subprocess
import sys

import librosa
import numpy as np
import pytest
import yaml

from birdsd.config import compose
from birdsd.errors import BadValue, Mismatch, UnknownName
from birdsd.randomness import generator
from birdsd.schema import MISSING, CodecConfig
from birdsd.sound.codec.codec import SpectrogramCodec
from birdsd.sound.codec.phase import Stft, spectral_convergence_db
from tests.support.codecs import CONFIGS, preset
from tests.support.errors import refuses

PRESETS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def sine(codec, hz, amplitude=1.0, channels=1):
    t = np.arange(codec.samples_per_clip) / codec.rate_hz
    return np.repeat(amplitude * np.sin(2 * np.pi * hz * t)[None], channels, axis=0).astype(np.float32)


def sweep(codec):
    t = np.arange(codec.samples_per_clip) / codec.rate_hz
    return (0.4 * np.sin(2 * np.pi * (2500 * t + 400 * t**2)))[None].astype(np.float32)


def test_presets_are_there_and_start_with_a_comment():
    assert {"birdsong", "birdsong-small", "birdsong-3s", "riffusion"} <= set(PRESETS)
    names = {field.name for field in dataclasses.fields(SpectrogramCodec)}
    for name in PRESETS:
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert text.startswith("# ") and set(yaml.safe_load(text)) == names
        assert preset(name).name == name


def test_the_default_keeps_what_birds_need():
    codec = preset("birdsong")
    assert codec.window_ms <= 25 and codec.hop_ms <= 5 and codec.fmax_hz >= 15000
    assert codec.intensity == "decibel"
    assert dataclasses.replace(codec, name="x") == dataclasses.replace(SpectrogramCodec(), name="x")


def test_a_clip_of_3_s_fills_the_window_of_birdnet_and_fits_any_autoencoder():
    codec = preset("birdsong-3s")
    assert 3.0 <= codec.clip_s < 3.1
    assert codec.frames % 64 == 0 and codec.bands % 64 == 0  # 8 x 8 and 4 x 4 pixels, and the denoiser below


def test_importing_the_codec_stays_light():
    code = "import sys, birdsd.sound.codec.codec; print({'torch', 'librosa', 'numba'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", PRESETS)
def test_images_have_the_promised_shape_for_any_length(name):
    codec = preset(name)
    assert codec.bands % 64 == 0 and codec.frames % 64 == 0
    for seconds in (0.01, codec.clip_s, 1.7 * codec.clip_s):
        sound = generator(name).standard_normal((1, round(seconds * codec.rate_hz))).astype(np.float32) * 0.1
        image = codec.encode(sound, codec.rate_hz)
        assert image.shape == (codec.image_channels, codec.bands, codec.frames)
        assert image.dtype == np.uint8 and image.flags.c_contiguous


def test_riffusions_magnitudes_are_librosas():
    codec = preset("riffusion", frames=64)
    sound = generator("exact").standard_normal((1, codec.samples_per_clip)).astype(np.float32)
    expected = librosa.feature.melspectrogram(
        y=sound[0].astype(np.float64), sr=44100, n_fft=17640, win_length=4410, hop_length=441, power=1.0,
        n_mels=512, fmin=0, fmax=10000, htk=True, norm=None, pad_mode="reflect", dtype=np.float64,
    ).T[:64]  # fmt: skip
    found = codec.magnitude(sound)[0]
    assert np.linalg.norm(found - expected) < 1e-6 * np.linalg.norm(expected)
    scaled = 255 - 255 * (expected / expected.max()) ** 0.25
    image = codec.encode(sound, 44100)[0, ::-1].T
    assert (np.abs(image - np.floor(scaled)) <= 1).all()
    assert (image == np.floor(scaled)).mean() > 0.999  # a rounding error may cross a step, no more


@pytest.mark.parametrize("scale", ["linear", "mel", "log"])
@pytest.mark.parametrize("formula", ["htk", "slaney"])
def test_a_full_scale_sine_is_0_db_and_level_is_absolute(scale, formula):
    codec = preset(
        "birdsong", scale=scale, bands=64, fmin_hz=500.0, fmax_hz=15000.0, mel_formula=formula, n_fft=0
    )
    for row in (5, 30, 60):
        hz = codec.row_hz()[row]
        image = codec.encode(sine(codec, hz), codec.rate_hz)
        assert image[0, :, 256].argmax() == row
        assert image[0, row, 256] >= 254
        quieter = codec.encode(sine(codec, hz, 10 ** (-40 / 20)), codec.rate_hz)
        assert abs(float(quieter[0, row, 256]) - 0.6 * 255) <= 1


def test_log1p_is_decibels_above_its_floor_and_linear_below():
    codec = preset("birdsong", intensity="log1p", floor_db=-75.0)
    db = np.array([-20.0, -30.0, -75.0, -100.0, -106.0], np.float32)
    magnitude = np.broadcast_to((10 ** (db / 20))[None, :, None], (1, 5, codec.bands))
    value = codec.quantise(np.ascontiguousarray(magnitude))[0, 0].astype(float)
    step = 255 / np.log1p(10 ** (75 / 20))
    assert value[0] - value[1] == pytest.approx(step * np.log(10) / 2, abs=1.0)  # 10 dB, as anywhere above
    assert value[2] == pytest.approx(step * np.log(2), abs=0.5)
    assert value[3] == pytest.approx(step * 10 ** (-25 / 20), abs=0.5)  # in proportion to the magnitude
    assert codec.quantise(np.zeros((1, 4, codec.bands), np.float32)).max() == 0
    assert codec.quietest_db == pytest.approx(-104.3, abs=0.1) and preset("birdsong").quietest_db == -100.0
    values = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, None, :], (1, codec.bands, 256))
    assert np.array_equal(codec.quantise(codec.dequantise(values)), values)


def test_log1p_gives_back_levels():
    codec = preset("birdsong", intensity="log1p", floor_db=-75.0)
    sound = sweep(codec)
    copy = codec.decode(codec.encode(sound, codec.rate_hz), seed=3)
    assert abs(20 * np.log10(copy.std() / sound.std())) < 0.5


def test_row_0_is_the_highest_frequency():
    codec = preset("birdsong")
    assert codec.row_hz()[0] == 16000 and codec.row_hz()[-1] == 62.5
    assert codec.encode(sine(codec, 12000), 32000)[0, :, 200].argmax() == 64


@pytest.mark.parametrize("name", PRESETS)
def test_quantising_is_stable(name):
    codec = preset(name)
    values = generator("stable", name).integers(0, 256, (1, codec.bands, codec.frames), dtype=np.uint8)
    values[0, 0, 0] = 0  # riffusion's scale is relative to the loudest, which is 0
    again = codec.quantise(codec.dequantise(values)).astype(int)
    assert np.abs(again - values).max() <= (1 if codec.intensity == "power" else 0)
    assert np.array_equal(codec.dequantise(values), codec.dequantise(values.astype(np.float32)))


@pytest.mark.parametrize(
    ("name", "at_most_db"),
    [("birdsong", -20), ("birdsong-small", -14), ("birdsong-3s", -14), ("riffusion", -10)],
)
def test_round_trip_of_a_sweep(name, at_most_db):
    codec = preset(name)
    sound = sweep(codec)
    copy = codec.decode(codec.encode(sound, codec.rate_hz), seed=3)
    assert copy.shape == sound.shape and copy.dtype == np.float32
    neutral = Stft(1024, 256, 1024)
    before, after = neutral.magnitude(sound[0]), neutral.magnitude(copy[0])
    gain = (before * after).sum() / (after**2).sum()
    assert spectral_convergence_db(gain * after, before) < at_most_db
    if codec.intensity == "decibel":
        assert abs(20 * np.log10(copy.std() / sound.std())) < 0.5
    else:
        assert np.abs(copy).max() == pytest.approx(1.0)


@pytest.mark.parametrize("scale", ["mel", "log", "linear"])
def test_every_scale_comes_back(scale):
    codec = preset("birdsong", scale=scale, fmin_hz=300.0, fmax_hz=15000.0, bands=192, n_fft=0, frames=256)
    sound = sweep(codec)
    copy = codec.decode(codec.encode(sound, codec.rate_hz))
    before, after = codec.magnitude(sound), codec.magnitude(copy)
    assert spectral_convergence_db(after, before) < -12


def test_quiet_stays_quieter_than_loud():
    codec = preset("birdsong")
    loud, quiet = (codec.decode(codec.encode(sweep(codec) * g, 32000)).std() for g in (1.0, 0.01))
    assert 20 * np.log10(loud / quiet) == pytest.approx(40, abs=1)


@pytest.mark.parametrize("name", PRESETS)
def test_silence_comes_back_as_silence(name):
    codec = preset(name, griffin_lim_iterations=2)
    image = codec.encode(np.zeros((1, 100), np.float32), codec.rate_hz)
    assert (image[: codec.channels] == (255 if codec.intensity == "power" else 0)).all()
    assert not codec.decode(image).any()


def test_stereo_keeps_its_sides_and_pictures_come_back():
    codec = preset("birdsong", channels=2, griffin_lim_iterations=8)
    sound = np.concatenate([sine(codec, 3000, 0.5), sine(codec, 6000, 0.05)])
    image = codec.encode(sound, 32000)
    assert image.shape == (2, 256, 512)
    left, right = codec.decode(image)
    assert 15 < 20 * np.log10(left.std() / right.std()) < 25
    picture = codec.to_rgb(image)
    assert picture.shape == (256, 512, 3) and picture.dtype == np.uint8
    assert np.array_equal(codec.from_rgb(picture), image)
    mono = preset("birdsong")
    grey = mono.to_rgb(image[:1])
    assert (grey[..., 0] == grey[..., 2]).all() and np.array_equal(mono.from_rgb(grey), image[:1])


def test_decoding_is_deterministic_and_takes_any_width():
    codec = preset("birdsong-small", griffin_lim_iterations=3)
    image = codec.encode(sweep(codec), 32000)[:, :, :100]
    assert np.array_equal(codec.decode(image, seed=1), codec.decode(image, seed=1))
    assert codec.decode(image).shape == (1, 100 * codec.hop)
    with refuses("(1, 127, 100)", "[channels, 128, frames]", kind=Mismatch):
        codec.decode(image[:, :-1])


def test_json_and_fingerprint():
    codec = preset("birdsong-small")
    assert SpectrogramCodec.from_json(json.loads(json.dumps(codec.to_json()))) == codec
    same = dataclasses.replace(codec, name="other", griffin_lim_iterations=5, momentum=0.5, phase="random")
    assert same.fingerprint() == codec.fingerprint()
    for change in ({"hop_ms": 3.0}, {"floor_db": -90.0}, {"fmin_hz": 400.0}, {"frames": 128}):
        assert dataclasses.replace(codec, **change).fingerprint() != codec.fingerprint()
    with refuses("'hop'", "hop_ms", kind=UnknownName):
        SpectrogramCodec.from_json({**codec.to_json(), "hop": 3})


def test_the_settings_of_a_codec_are_fixed():
    codec = preset("birdsong")
    with pytest.raises(dataclasses.FrozenInstanceError):
        codec.bands = 3
    assert hash(codec) == hash(preset("birdsong")) and codec == preset("birdsong") != CodecConfig(
        name="birdsong"
    )
    copied = pickle.loads(pickle.dumps(codec))
    assert copied == codec and copied.filters.centre_hz.shape == (codec.bands,)


def test_a_preset_and_a_codec_file_have_the_same_fields_and_defaults():
    codec = {field.name: field.default for field in dataclasses.fields(SpectrogramCodec)}
    preset_fields = {field.name: field.default for field in dataclasses.fields(CodecConfig)}
    assert preset_fields.pop("name") == MISSING and codec.pop("name") == "birdsong"
    assert list(preset_fields) == list(codec)
    for name, default in codec.items():
        assert preset_fields[name] == default and type(preset_fields[name]) is type(default), name


@pytest.mark.parametrize("left_out", [*dataclasses.asdict(SpectrogramCodec()), "all"])
def test_what_a_preset_or_a_codec_file_leaves_out_is_as_in_birdsong(left_out, tmp_path):
    """A preset of one's own and a codec.json written by hand that say the same are the same codec."""
    told = {} if left_out == "all" else preset("birdsong").to_json()
    told.pop(left_out, None)
    path = tmp_path / "birdsong.yaml"
    path.write_text("# mine\n" + yaml.safe_dump(told))
    from_preset = SpectrogramCodec.from_config(compose("prepare", [f"codec={path}"]).codec)
    assert from_preset == SpectrogramCodec.from_json(told) == preset("birdsong")


@pytest.mark.parametrize(
    ("changes", "named", "offer", "kind"),
    [
        ({"fmax_hz": 20000.0}, "fmax_hz=20000", "fmax_hz=16000 or rate_hz=40000", BadValue),
        ({"hop_ms": 20.0}, "hop_ms=20.0", "hop_ms=8 ", BadValue),
        ({"n_fft": 256}, "n_fft=256", "n_fft=512", BadValue),
        ({"n_fft": 513}, "n_fft=513", "n_fft=512", BadValue),
        ({"fmin_hz": 16000.0}, "fmin_hz=16000", "fmin_hz=0 or fmax_hz=16000", BadValue),
        ({"scale": "log", "fmin_hz": 0.0}, "fmin_hz=0", "fmin_hz=20", BadValue),
        ({"scale": "mel", "fmin_hz": 0.0}, "256 mel filters", "n_fft=1920", BadValue),
        ({"bands": 600}, "600 linear filters", "n_fft=640", BadValue),
        ({"scale": "mell"}, "'mell'", "mel", UnknownName),
        ({"intensity": "db"}, "'db'", "decibel, log1p, power", UnknownName),
        ({"channels": 3}, "channels=3", "channels=1 or 2", BadValue),
        ({"floor_db": 5.0}, "floor_db=5.0", "floor_db=-100", BadValue),
        ({"momentum": 1.3}, "momentum=1.3", "momentum=0.99", BadValue),
        ({"frames": 1}, "frames=1", "frames=3", BadValue),
        ({"bands": 0}, "bands=0", "bands=256", BadValue),
        ({"window_ms": float("nan")}, "window_ms=nan", "window_ms=16.0", BadValue),
        ({"exponent": 0.0, "intensity": "power"}, "exponent=0.0", "exponent=0.25", BadValue),
    ],
)
def test_settings_that_cannot_work_name_the_value_that_would(changes, named, offer, kind):
    with refuses(named, offer, kind=kind):
        preset("birdsong", **changes)


def test_the_fft_size_that_is_named_or_chosen_works():
    with pytest.raises(BadValue) as caught:
        preset("birdsong", scale="mel", fmin_hz=0.0)
    size = int(caught.value.hint.split("n_fft=")[1].split(",")[0])
    assert preset("birdsong", scale="mel", fmin_hz=0.0, n_fft=size).stft.n_fft == size
    assert preset("birdsong", scale="mel", fmin_hz=0.0, n_fft=0).bands == 256


def test_sound_that_does_not_fit_is_refused():
    codec = preset("birdsong")
    with refuses("44100 Hz", "rate_hz=32000", kind=Mismatch):
        codec.encode(np.zeros((1, 9), np.float32), 44100)
    with refuses("(2, 9)", "channels=1", kind=Mismatch):
        codec.encode(np.zeros((2, 9), np.float32), 32000)
    with refuses("finite", kind=BadValue):
        codec.encode(np.full((1, 9), np.nan, np.float32), 32000)
