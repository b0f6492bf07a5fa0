"""The phase in the image: waveforms come back, quiet cells say so, what cannot keep it is refused."""

import json

import numpy as np
import pytest

from birdsd.errors import BadValue, Mismatch
from birdsd.randomness import generator
from birdsd.sound.audio.recordings import find_recordings, read
from birdsd.sound.audit.fidelity import fitted_error_db
from birdsd.sound.codec import Codec
from tests.sound.codec.test_pghi import song
from tests.support.codecs import preset
from tests.support.errors import refuses

TINY = {"rate_hz": 16000, "window_ms": 8.0, "n_fft": 128, "hop_ms": 4.0, "bands": 64, "fmin_hz": 125.0,
        "fmax_hz": 8000.0, "frames": 64}  # fmt: skip


def test_the_waveform_itself_comes_back():
    codec = preset("birdsong-phase", frames=128)
    sound = song()[None, : codec.samples_per_clip]
    image = codec.encode(sound, codec.rate_hz)
    assert image.shape == codec.image_shape == (3, 256, 128) and image.dtype == np.uint8
    copy = codec.decode(image)
    assert copy.shape == sound.shape and copy.dtype == np.float32
    assert fitted_error_db(sound, copy) < -40
    # What an estimated phase gives is another waveform, however good its picture is.
    level = preset("birdsong", frames=128)
    assert fitted_error_db(sound, level.decode(level.encode(sound, level.rate_hz))) > -6


@pytest.mark.parametrize(
    "changes",
    [
        TINY,
        {"intensity": "log1p", "floor_db": -75.0},
        {"intensity": "power"},
        {"window_ms": 12.0, "hop_ms": 3.0},
    ],
)
def test_other_grids_and_intensities_keep_it_too(changes):
    codec = preset("birdsong-phase", **changes)
    sound = song(codec.rate_hz)[None, : codec.hop * 100]
    assert fitted_error_db(sound, codec.decode(codec.image_of(sound))) < -30


def test_levels_are_those_of_the_codec_without_phase_and_rows_lie_alike():
    codec, plain = preset("birdsong-phase"), preset("birdsong")
    sound = song()[None]
    image = codec.image_of(sound)
    assert np.array_equal(image[:1], plain.image_of(sound))
    assert np.array_equal(codec.dequantise(image), plain.dequantise(image[:1]))
    t = np.arange(9600) / 32000
    tone = codec.image_of((0.5 * np.cos(2 * np.pi * 12000 * t))[None].astype(np.float32))
    row = int(tone[0, :, 30].argmax())
    assert codec.row_hz()[row] == 12000
    # 12 kHz turns by 48 whole turns in a hop: a cosine, whose phase at the centres is 0.
    assert (tone[1, row, 5:-5] >= 254).all() and (np.abs(tone[2, row, 5:-5].astype(int) - 127.5) < 2).all()


def test_quiet_cells_have_short_vectors_and_silence_is_grey():
    codec = preset("birdsong-phase")
    noise = generator("hiss").standard_normal((1, 12800)).astype(np.float32)
    for gain, low, high in ((0.3, 0.97, 1.02), (1e-5, 0.0, 0.6)):
        image = codec.image_of(gain * noise)
        length = np.hypot(*(image[1:].astype(float) / 127.5 - 1))
        assert low <= np.median(length) <= high
    silent = codec.encode(np.zeros((1, 100), np.float32), codec.rate_hz)
    assert not silent[0].any() and set(np.unique(silent[1:])) <= {127, 128}
    assert not codec.decode(silent).any()


def test_pictures_loops_and_what_a_network_gives_decode():
    codec = preset("birdsong-phase", frames=64)
    t = np.arange(codec.samples_per_clip) / codec.rate_hz
    tone = (0.4 * np.sin(2 * np.pi * 3000 * t))[None].astype(np.float32)
    image = codec.image_of(tone)
    picture = codec.to_rgb(image)
    assert picture.shape == (256, 64, 3) and np.array_equal(codec.from_rgb(picture), image)
    noisy = image + generator("network").normal(0, 4, image.shape).astype(np.float32)
    assert fitted_error_db(tone, codec.decode(noisy)) < -15
    assert np.isfinite(codec.decode(np.full(image.shape, 127.5, np.float32))).all()
    loop = codec.decode_loop(image)
    inside = np.abs(np.diff(loop[0])).max()
    assert abs(float(loop[0, 0] - loop[0, -1])) <= 1.05 * inside
    assert fitted_error_db(tone[:, 512:-512], loop[:, 512:-512]) < -30
    assert codec.synthesise(codec.dequantise(image), 2).shape == tone.shape  # a level alone has no phase
    with refuses("1 channels", "phase=kept", kind=Mismatch):
        codec.decode(image[:1])


def test_it_is_another_image_for_shards_and_models():
    codec, plain = preset("birdsong-phase"), preset("birdsong")
    assert codec.fingerprint() != plain.fingerprint() == preset("birdsong", phase="random").fingerprint()
    stored = json.loads(json.dumps(codec.to_json()))
    assert stored["image_channels"] == 3 and Codec.from_json(stored) == codec
    before = {key: value for key, value in plain.to_json().items() if key != "phase"}
    assert Codec.from_json(before).fingerprint() == plain.fingerprint()  # a codec.json of before


@pytest.mark.parametrize(
    ("changes", "named", "offer"),
    [
        ({"channels": 2}, "phase=kept with channels=2", "channels=1"),
        (
            {"scale": "mel", "n_fft": 1024, "bands": 64},
            "64 mel bands",
            "scale=linear bands=512 fmin_hz=31.25",
        ),
        ({"bands": 128, "fmin_hz": 300.0}, "128 linear bands", "bands=256 fmin_hz=62.5 fmax_hz=16000"),
    ],
)
def test_what_cannot_keep_a_phase_is_refused_with_what_would(changes, named, offer):
    with refuses(named, offer, kind=BadValue):
        preset("birdsong-phase", **changes)


@pytest.mark.data
def test_real_songs_come_back_as_they_were(data_folder):
    codec = preset("birdsong-phase")
    for path in find_recordings(data_folder / "birdsong")[::27]:
        sound = read(path, codec.rate_hz, channels=1, duration_s=2.0)
        sound = sound[:, : sound.shape[1] // codec.hop * codec.hop]
        assert fitted_error_db(sound, codec.decode(codec.image_of(sound))) < -40
