"""The audit tells apart what codecs keep: on synthetic songs and trills, in bad folders, on real birds."""

import dataclasses
import json

import numpy as np
import pytest

from birdsd.errors import Mismatch, NothingLeft, NotSet
from birdsd.randomness import generator
from birdsd.sound.audit.audit import audit_text, round_trip, run_audit
from birdsd.sound.audit.fidelity import BANDS_HZ, NEUTRAL_RATE_HZ, compare, trill_mask
from tests.support.codecs import preset
from tests.support.errors import refuses
from tests.support.remarks import remarked
from tests.support.sound_makers import save

T = np.arange(round(1.5 * NEUTRAL_RATE_HZ)) / NEUTRAL_RATE_HZ


def song():
    """Sweeps between 2.5 and 4.2 kHz, two a second."""
    return (0.4 * np.sin(2 * np.pi * 3350 * T - 850 / 2 * np.cos(2 * np.pi * 2 * T)))[None].astype(np.float32)


def trill(notes_per_s=50, hz=5000):
    envelope = np.clip(np.sin(2 * np.pi * notes_per_s * T), 0, None)
    return (0.4 * envelope * np.sin(2 * np.pi * hz * T))[None].astype(np.float32)


def high():
    return (0.4 * np.sin(2 * np.pi * 11750 * T - 750 / 4 * np.cos(2 * np.pi * 4 * T)))[None].astype(
        np.float32
    )


def judge(name, sound):
    codec = preset(name)
    return compare(sound, round_trip(codec, sound, NEUTRAL_RATE_HZ), codec.fmin_hz, codec.fmax_hz)


def test_an_identical_copy_is_perfect_and_a_gain_is_only_a_loudness_error():
    judged = compare(song(), song() * 0.5, 0, 20000)
    assert judged.overall_db < -100
    assert judged.loudness_error_db == pytest.approx(-6.02, abs=0.01)
    assert judged.below_band_share == 0 and judged.above_band_share < 1e-6


@pytest.mark.parametrize(("sound", "band"), [(song(), 2), (trill(), 3)])
def test_birdsong_beats_riffusion_by_10_db(sound, band):
    ours, theirs = judge("birdsong", sound), judge("riffusion", sound)
    assert ours.overall_db < theirs.overall_db - 10
    assert ours.bands_db[band] < theirs.bands_db[band] - 10
    assert abs(ours.loudness_error_db) < 0.5 < abs(theirs.loudness_error_db)


def test_what_lies_above_riffusions_band_is_gone_and_said():
    theirs = judge("riffusion", high())
    assert theirs.overall_db > -1 and theirs.above_band_share > 0.9
    assert judge("birdsong", high()).overall_db < -15


def test_trills_are_found_where_they_are():
    mask = trill_mask(trill())
    assert mask.shape == (T.size // 256, len(BANDS_HZ))
    assert mask[20:-20, 3].all() and not mask[:, [0, 1, 4, 5]].any()
    assert not trill_mask(trill(notes_per_s=5))[20:-20].all(axis=0).any()
    noise = generator("noise").standard_normal((1, T.size)).astype(np.float32)
    assert trill_mask(noise).mean() < 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds")
    save(folder / "song.wav", song()[:, :40000])
    save(folder / "a $math$ trill.wav", trill()[:, :40000])
    save(folder / "silence.wav", np.zeros((1, 44100), np.float32))
    save(folder / "blip.wav", np.ones((1, 50), np.float32))
    (folder / "text.wav").write_text("not sound")
    return folder


def test_the_audit_recommends_shows_and_goes_on(folder, tmp_path):
    codecs = [preset("riffusion"), preset("birdsong"), preset("birdsong", griffin_lim_iterations=0)]
    result = run_audit(folder, codecs, tmp_path / "out", 0)
    assert [codec.name for codec in result.codecs] == ["riffusion", "birdsong", "birdsong-2"]
    assert result.codecs[result.best].name == "birdsong"
    assert {path.name for path, _ in result.problems} == {"silence.wav", "blip.wav", "text.wav"}
    text = audit_text(result)
    said = result.recommendation
    assert all(one in text for one in said) and "Use codec=birdsong: " in text
    assert [one.code for one in said if one.facts.get("than") == "riffusion"] == ["closer"]
    lost = {one.code for one in said if one.facts.get("codec") == "riffusion"}
    assert {"changes-loudness", "smears-trills"} <= lost
    assert "\n3 recordings " in text and "text.wav" in text
    assert (tmp_path / "out" / "audit.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "out").glob("*.wav"))) == 2 * 4
    written = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert written == json.loads(json.dumps(result.to_json()))
    assert written["best"] == "birdsong" and len(written["stretches"]) == 2


def test_the_audit_shows_what_becomes_of_the_phase(folder):
    codecs = [preset("birdsong-phase"), preset("birdsong"), preset("birdsong", phase="random")]
    codecs = [dataclasses.replace(codec, griffin_lim_iterations=8) for codec in codecs]
    result = run_audit(folder / "song.wav", codecs, None, 0)
    kept, integrated, random = result.summaries
    assert kept.waveform_db < -35 and random.waveform_db > -3
    assert kept.waveform_db < integrated.waveform_db - 10
    assert integrated.picture_db < random.picture_db - 5
    assert kept.picture_db < -30
    rows = {line[:26].strip(): line[26:] for line in audit_text(result).splitlines()}
    assert f"{integrated.picture_db:.1f}" in rows["spectral convergence"]
    assert "kept" in rows["phases, iterations"] and "pghi, 8" in rows["phases, iterations"]
    assert "random, 8" in rows["phases, iterations"] and f"{kept.waveform_db:.1f}" in rows["waveform"]
    assert result.to_json()["codecs"][0]["waveform_db"] == kept.waveform_db
    phase = remarked(result.recommendation, "phase-in-images")
    assert phase.facts == {"codec": "birdsong-phase"} and phase in audit_text(result)


def test_limits_and_refusals(folder, tmp_path):
    small = preset("birdsong-small", griffin_lim_iterations=1)
    assert len(run_audit(folder / "song.wav", [small], None, 1).stretches) == 1
    with refuses(str(tmp_path), "flac", kind=NothingLeft):
        run_audit(tmp_path, [small], None, 0)
    with refuses("silence.wav", kind=NothingLeft):
        run_audit(folder / "silence.wav", [small], None, 0)
    with refuses("codec", "codec=birdsong", kind=NotSet):
        run_audit(folder, [], None, 0)
    with refuses("channels", "codec.channels", kind=Mismatch):
        run_audit(folder, [small, preset("birdsong", channels=2)], None, 0)


def test_long_recordings_are_judged_in_stretches(tmp_path):
    path = save(tmp_path / "long.wav", np.tile(song(), 30))
    result = run_audit(path, [preset("birdsong-small", griffin_lim_iterations=0)], None, 0)
    assert [stretch.start_s for stretch in result.stretches] == [0.0, 15.0, 30.0]


@pytest.mark.data
def test_real_songs_come_back_10_db_closer_than_through_riffusion(data_folder):
    result = run_audit(data_folder / "birdsong", [preset("birdsong"), preset("riffusion")], None, 4)
    ours, theirs = result.summaries
    assert ours.overall_db < theirs.overall_db - 10
    assert ours.trills_db < theirs.trills_db - 8
    assert ours.loudness_error_db < 0.2
