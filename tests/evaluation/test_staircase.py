"""The staircase shows at which stage the bird is lost, and says what it rests on and what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.ndimage import uniform_filter

from birdsd.cli import main
from birdsd.config import compose
from birdsd.diffusion.learning.common import codec_of
from birdsd.errors import NotFound
from birdsd.evaluation import available_judge, judged_run, judges
from birdsd.evaluation.judged_run import staircase_of
from birdsd.evaluation.judges import Sound
from birdsd.evaluation.judges.judgement import wilson
from birdsd.evaluation.real_clips import RealClip, held_out_split, read_real
from birdsd.evaluation.staircase import (
    AUTOENCODER,
    CODEC,
    GENERATED,
    RECORDING,
    TITLES,
    reconstructions,
    staircase,
)
from birdsd.evaluation.weak_check import WeakCheck
from birdsd.files import write_json
from birdsd.shards.index import ShardIndex
from birdsd.shards.prepare.prepare import prepare
from birdsd.shards.storage.writer import ShardWriter
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refused_as, refuses
from tests.support.fake_judge import FakeJudge
from tests.support.remarks import remarked
from tests.support.songs import SPECIES, song, write_shards


def real_clips(codec, species=SPECIES, individuals=range(3), takes=2):
    return [
        RealClip(f"{s}-{i}-{t}", s, f"{s} {i}", codec.encode(song(s, i, t, codec), codec.rate_hz),
                 song(s, i, t, codec), codec.rate_hz)
        for s in species for i in individuals for t in range(takes)
    ]  # fmt: skip


def sounds(codec, species=SPECIES, count=2, like=None):
    return [
        Sound(f"{s} {i}", song(like or s, 30 + i, 0, codec), codec.rate_hz, s)
        for s in species
        for i in range(count)
    ]


def noise(image):
    return np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint8)


def test_the_stage_that_loses_the_bird_is_seen(codec):
    told = staircase(codec, real_clips(codec), FakeJudge(), SPECIES,
                     reconstructed=reconstructions(codec, real_clips(codec), noise),
                     generated=sounds(codec), held_out="test", progress=False)  # fmt: skip
    shares = {step.stage: step.named.right.share for step in told.steps}
    assert list(shares) == [RECORDING, CODEC, AUTOENCODER, GENERATED]
    assert shares[RECORDING] == shares[CODEC] == shares[GENERATED] == 1.0 and shares[AUTOENCODER] == 0.0
    assert told.loses_most.stage == AUTOENCODER
    worst, held_out = (remarked(told.remarks(), code) for code in ("loses-most", "held-out-for-figures"))
    assert worst.facts["stage"] == AUTOENCODER and worst.endswith(f": {TITLES[AUTOENCODER]}")
    assert held_out.facts == {"split": "test"} and worst in told.text() and held_out in told.text()
    assert "Fake judge (CC0)" in told.text()
    stages = json.loads(json.dumps(told.to_json()))["stages"]
    assert [stage["figures"]["clips"] for stage in stages] == [18, 18, 18, 6]


def test_clips_of_one_recording_are_one_observation(codec):
    few, many = (
        staircase(codec, real_clips(codec, takes=n), FakeJudge(), SPECIES, progress=False).step(CODEC).named
        for n in (1, 2)
    )  # fmt: skip
    assert (few.clips, many.clips) == (9, 18) and few.units == many.units == 9
    assert (many.right.low, many.right.high) == (few.right.low, few.right.high) == wilson(9, 9)


def test_a_species_without_a_class_is_named_and_in_no_figure(codec):
    judge = FakeJudge(known=SPECIES[:2])
    told = staircase(codec, real_clips(codec), judge, SPECIES, generated=sounds(codec), progress=False)
    assert told.unknown == ["Synthetic Trill"] and told.known == list(SPECIES[:2])
    assert told.step(CODEC).named.clips == 12 and told.step(GENERATED).named.clips == 4
    assert "Synthetic Trill" not in told.step(CODEC).per_species
    assert "Synthetic Trill: left out" in told.text()
    assert "right of 2" in told.text()


def test_a_judge_that_knows_none_is_not_asked(codec):
    judge = FakeJudge(known=())
    told = staircase(codec, real_clips(codec), judge, SPECIES, generated=sounds(codec), progress=False)
    assert told.steps == [] and judge.heard_samples == []
    assert not told.known and "weak check" in told.text()


def test_what_is_missing_is_said(codec):
    without = [RealClip(c.name, c.species, c.recording, c.image) for c in real_clips(codec)]
    told = staircase(codec, without, FakeJudge(), SPECIES, held_out="validation", progress=False)
    assert [step.stage for step in told.steps] == [CODEC]
    assert set(told.missing) == {RECORDING, AUTOENCODER, GENERATED}
    assert "18 of 18" in told.missing[RECORDING] and "validation" in told.remarks()[0]
    assert told.remarks()[0].code == "no-test-recordings"
    nothing = staircase(codec, [], FakeJudge(), SPECIES, generated=sounds(codec), progress=False)
    assert [step.stage for step in nothing.steps] == [GENERATED]
    assert nothing.missing[CODEC].code == "nothing-held-out" and nothing.missing[CODEC] in nothing.text()


def test_silent_clips_and_one_species_only_count_as_not_heard(codec):
    silent = np.zeros((1, codec.samples_per_clip), np.float32)
    made = [Sound("silent", silent, codec.rate_hz, SPECIES[0]), *sounds(codec, SPECIES[:1])]
    real = [*real_clips(codec, SPECIES[:1]), RealClip(
        "silent", SPECIES[0], "r", codec.encode(silent, codec.rate_hz), silent, codec.rate_hz)]  # fmt: skip
    told = staircase(codec, real, FakeJudge(), SPECIES[:1], generated=made, progress=False)
    assert told.step(GENERATED).named.right.hits == 2 and told.step(GENERATED).named.clips == 3
    assert told.step(CODEC).named.right.hits == 6 and told.step(CODEC).named.clips == 7


# -- a whole run ------------------------------------------------------------------------------------------


def test_a_run_is_judged_by_its_test_recordings(index: ShardIndex, codec: SpectrogramCodec):
    run = staircase_of(index, sounds(codec), judge=FakeJudge(), progress=False)
    assert run.held_out == "test" and {c.recording for c in run.real} == {f"{s} {i}" for s in SPECIES
                                                                       for i in range(11, 14)}  # fmt: skip
    step = run.staircase.step(GENERATED)
    assert step.named.right.share == 1.0 and len(run.verdicts(CODEC)) == len(run.real) == 18
    told = json.loads(json.dumps(run.to_json()))
    assert told["judge"] == "Fake judge" and told["staircase"]["held_out"] == "test"
    assert "other measures" in run.text()


def test_without_test_recordings_validation_is_used_and_said(codec: SpectrogramCodec, tmp_path: Path):
    index = write_shards(tmp_path, codec, {"train": range(3), "validation": range(3, 5)})
    assert held_out_split(index) == "validation"
    run = staircase_of(index, sounds(codec), judge=FakeJudge(), progress=False)
    said = remarked(run.staircase.remarks(), "no-test-recordings")
    assert run.held_out == "validation" == said.facts["split"] and said in run.text()
    alone = write_shards(tmp_path / "alone", codec, {"train": range(2)})
    run = staircase_of(alone, sounds(codec), judge=FakeJudge(), progress=False)
    assert run.held_out == "" and run.real == [] and run.measures.row("loudness").real is None
    assert run.staircase.missing[CODEC].code == "nothing-held-out"
    assert run.staircase.missing[CODEC] in run.text()


def test_whatever_needs_the_codec_says_the_same_of_shards_without_one(codec, tmp_path):
    shards = write_shards(tmp_path, codec, {"train": range(2)})
    (tmp_path / "codec.json").unlink()
    without, told = ShardIndex.open(shards.folder), []
    for ask in (
        lambda: staircase_of(without, sounds(codec), judge=FakeJudge(), progress=False),
        lambda: WeakCheck.of(without),
        lambda: codec_of(without),
    ):
        with refuses("codec.json", kind=NotFound) as refused:
            ask()
        told.append(refused.value)
    assert len({one.problem for one in told}) == len({one.hint for one in told}) == 1
    assert len({one.expected for one in told}) == 3  # each says what it needs the codec for


def test_without_the_judge_one_line_says_how_to_get_it(index, codec, monkeypatch):
    monkeypatch.setattr(judges, "installed", lambda: False)
    run = staircase_of(index, sounds(codec), progress=False)
    assert run.staircase is None and run.verdicts(GENERATED) is None
    first = run.text().splitlines()[0]
    assert "'birdsd[birdnet]'" in first and available_judge.WEAK_ONLY.rstrip() in first
    assert run.measures.row("floor").generated is not None
    assert not run.measures.has("nearest_embedding")
    assert run.to_json()["no_judge"] == first and available_judge.available_judge()[0] is None


def test_an_autoencoder_that_is_gone_costs_a_row_and_not_the_page(index, codec, tmp_path):
    run = staircase_of(index, sounds(codec), autoencoder=tmp_path, judge=FakeJudge(), progress=False)
    assert run.staircase.step(AUTOENCODER) is None and "vae" in run.staircase.missing[AUTOENCODER]
    assert run.staircase.step(GENERATED) is not None


def test_the_autoencoder_goes_there_and_back(codec, tmp_path):
    """One that keeps a constant colour only: everything becomes a grey, whatever went in."""
    from birdsd.diffusion.networks.models import build_vae
    from birdsd.evaluation.staircase import reconstructor

    vae = build_vae({"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4})
    vae.save_pretrained(tmp_path / "vae")
    back = reconstructor(str(tmp_path), codec)
    image = codec.encode(song(SPECIES[0], 1, 0, codec), codec.rate_hz)
    made = back(image)
    assert made.shape == image.shape and made.dtype == image.dtype
    assert np.array_equal(back(image), made)
    assert not np.array_equal(made, image)


# -- measures ---------------------------------------------------------------------------------------------


def test_a_smear_on_black_shows_in_what_stands_beside_being_named(index, codec):
    """The right pitch and no floor at all, and half as loud: named right, and told apart."""
    time = np.arange(codec.samples_per_clip) / codec.rate_hz
    pitch = {"Synthetic High": 6000.0, "Synthetic Low": 1500.0, "Synthetic Trill": 3000.0}
    smears = [
        Sound(f"{s} {i}", (0.05 * np.sin(2 * np.pi * hz * time))[None].astype(np.float32), codec.rate_hz, s)
        for s, hz in pitch.items()
        for i in range(2)
    ]
    real = staircase_of(index, sounds(codec, count=4), judge=FakeJudge(), progress=False).measures
    smeared = staircase_of(index, smears, judge=FakeJudge(), progress=False)
    assert smeared.staircase.step(GENERATED).named.right.share == 1.0
    rows = {row.key: row for row in smeared.measures.rows}
    assert rows["floor"].generated < rows["floor"].real - 5
    assert rows["spectrum"].generated > rows["spectrum"].real
    assert rows["fast"].generated < rows["fast"].real
    assert rows["nearest_pictures"].generated > 1.5 * rows["nearest_pictures"].real
    assert real.row("floor").generated == pytest.approx(real.row("floor").real, abs=3)
    assert real.row("spectrum").generated < rows["spectrum"].generated


def test_copies_of_training_clips_lie_nearer_than_held_out_ones(index, codec):
    copies = [Sound(c.name, codec.decode(c.image), codec.rate_hz, c.species)
              for c in read_real(index, "train", limit=12)]  # fmt: skip
    measures = staircase_of(index, copies, judge=FakeJudge(), progress=False).measures
    assert measures.row("copies_pictures").generated > 0.9 > measures.row("copies_pictures").real
    assert measures.row("nearest_pictures").generated < 0.01 < measures.row("nearest_pictures").real


@pytest.mark.parametrize("blurs", [False, True])
def test_held_out_clips_through_the_autoencoder_are_measured_as_well(index, codec, monkeypatch, blurs):
    """The decoder of generated clips smooths real ones too: what is near for that alone is no copy."""

    def reconstruct(image):
        if not blurs:
            return image
        blurred = uniform_filter(image.astype(np.float32), size=(1, 9, 9), mode="nearest")
        return blurred.round().astype(np.uint8)

    monkeypatch.setattr(judged_run, "_reconstruct", lambda source, codec: (reconstruct, {}))
    measures = staircase_of(index, sounds(codec), autoencoder="x", judge=FakeJudge(), progress=False).measures
    assert measures.reconstructed == measures.held_out > 0
    rows = {row.key: row for row in measures.rows}
    assert all(len(measures.cells(row)) == len(measures.columns()) == 3 for row in measures.rows)
    shown = measures.text()
    assert all(measures.cells(row)[1] in shown for row in measures.rows)
    for key in ("floor", "fast", "nearest_pictures"):
        assert (rows[key].reconstructed == pytest.approx(rows[key].real, abs=0.05)) is not blurs, key
    assert rows["spectrum"].reconstructed < (20 if blurs else 0.1)


# -- real clips -------------------------------------------------------------------------------------------


def test_the_cut_of_a_recording_is_the_one_that_the_shard_holds(tmp_path: Path):
    """At the recording's own rate, and through the codec it is the shard's image again."""
    from tests.support.sound_makers import save

    draw = np.random.default_rng(0)
    for number in range(2):
        time = np.arange(3 * 22050) / 22050
        tone = 0.3 * np.sin(2 * np.pi * (2000 + 500 * number) * time) * (np.abs(time - 1.7) < 0.3)
        (tmp_path / "birds" / "robin").mkdir(parents=True, exist_ok=True)
        save(tmp_path / "birds" / "robin" / f"{number}.wav",
             (tone + 1e-3 * draw.standard_normal(len(time)))[None].astype(np.float32), 22050)  # fmt: skip
    config = compose("prepare", [
        f"data.recordings={tmp_path / 'birds'}", f"data.shards={tmp_path / 'shards'}", "codec=birdsong-small",
    ])  # fmt: skip
    codec = SpectrogramCodec.from_config(config.codec)
    prepare(config.data, codec, processes=1, progress=False)
    index = ShardIndex.open(tmp_path / "shards")
    split = index.splits[0]
    clips = read_real(index, split, recordings=tmp_path / "birds")
    assert clips and all(clip.original is not None and clip.rate_hz == 22050 for clip in clips)
    import soxr

    for clip in clips:
        again = soxr.resample(clip.original.T, clip.rate_hz, codec.rate_hz, quality="HQ").T
        image = codec.encode(again.astype(np.float32), codec.rate_hz).astype(int)
        loud = clip.image > 120
        assert np.abs(image - clip.image)[loud].mean() < 3
    assert all(clip.original is None for clip in read_real(index, split, recordings=tmp_path / "elsewhere"))
    assert len(read_real(index, split, limit=1)) == 1
    assert read_real(index, split, species=["wren"]) == []


def test_shards_do_not_lead_outside_of_the_folder_of_recordings(codec, tmp_path: Path):
    from tests.support.sound_makers import save

    (tmp_path / "birds").mkdir()
    save(tmp_path / "secret.wav", song(SPECIES[0], 0, 0, codec), codec.rate_hz)
    image = codec.encode(song(SPECIES[0], 0, 0, codec), codec.rate_hz)
    with ShardWriter(tmp_path / "shards" / "test-000000.tar") as writer:
        for key, path in (("a", "../secret.wav"), ("b", str(tmp_path / "secret.wav"))):
            told = {"recording_id": key, "path": path, "start_s": 0.0, "duration_s": 0.1}
            writer.write(key, {"npy": image, "json": {"species": [SPECIES[0]], **told}})
    clips = read_real(ShardIndex.open(tmp_path / "shards"), "test", recordings=tmp_path / "birds")
    assert len(clips) == 2 and all(clip.original is None for clip in clips)


# -- with the real judge ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_species(data_folder: Path, tmp_path_factory) -> tuple[ShardIndex, Path]:
    if not judges.installed():
        pytest.skip("BirdNET is not installed: pip install 'birdsd[birdnet]'")
    folder = tmp_path_factory.mktemp("two")
    for species in ("black_phoebe", "lesser_goldfinch"):
        (folder / "birds" / species).mkdir(parents=True)
        for path in sorted((data_folder / "birdsong" / species).glob("*.mp3"))[:4]:
            (folder / "birds" / species / path.name).symlink_to(path)
    config = compose("prepare", [
        f"data.recordings={folder / 'birds'}", f"data.shards={folder / 'shards'}", "codec=birdsong-small",
        "codec.griffin_lim_iterations=16", "data.validation_fraction=0.25", "data.test_fraction=0.25",
    ])  # fmt: skip
    prepare(config.data, SpectrogramCodec.from_config(config.codec), processes=1, progress=False)
    return ShardIndex.open(folder / "shards"), folder / "birds"


@pytest.mark.data
def test_birdnet_hears_the_recording_and_the_codec(two_species):
    index, birds = two_species
    codec = SpectrogramCodec.from_json(index.codec)
    other = read_real(index, "validation", limit=4)
    made = [Sound(c.name, codec.decode(c.image), codec.rate_hz, c.species) for c in other]
    run = staircase_of(index, made, recordings=birds, progress=False)
    recording, through = (run.staircase.step(stage).named for stage in (RECORDING, CODEC))
    assert recording.right.share >= through.right.share >= 0.5
    assert recording.clips == through.clips == len(run.real) and recording.units == 2
    assert run.staircase.step(GENERATED).named.among.share >= 0.5  # real ones in disguise
    assert run.measures.has("nearest_embedding") and "CC BY-NC-SA" in run.text()


@pytest.mark.data
def test_birdnet_does_not_hear_the_bird_in_noise_that_an_autoencoder_left(two_species):
    index, birds = two_species
    codec = SpectrogramCodec.from_json(index.codec)
    clips = read_real(index, "test", recordings=birds, limit=4)
    judge = judges.find_judge()
    told = staircase(codec, clips, judge, [*index.species, "Synthetic Ringer"],
                     reconstructed=reconstructions(codec, clips, noise),
                     generated=[Sound("none", np.zeros((1, 9), np.float32), 32000, index.species[0])],
                     held_out="test", progress=False)  # fmt: skip
    assert told.step(RECORDING).named.right.share > told.step(AUTOENCODER).named.right.share == 0
    assert told.loses_most.stage == AUTOENCODER and told.unknown == ["Synthetic Ringer"]
    assert told.step(GENERATED).named.right.hits == 0


@pytest.mark.parametrize(
    ("exported", "folder", "code"),
    [
        (True, "Synthetic High", ""),
        (False, "Synthetic High", "not-found"),
        (True, ".", "nothing-left"),
    ],
)
def test_the_command_judges_the_stages_of_a_run(
    index: ShardIndex, codec, tmp_path: Path, monkeypatch, capsys, exported: bool, folder: str, code: str
):
    run = tmp_path / "runs" / "tiny-full-abc"
    write_json(run / "signature.json", {"signature": "abc"})
    write_json(run / "config.json", {"data": {"shards": str(index.folder)}})
    if exported:
        (run / "export").mkdir()
    (tmp_path / "made" / folder).mkdir(parents=True, exist_ok=True)
    write_wav(tmp_path / "made" / folder / "1.wav", sounds(codec, SPECIES[:1])[0].waveform, codec.rate_hz)
    monkeypatch.setattr(judges, "find_judge", lambda folder=None: FakeJudge())
    command = ["judge", str(tmp_path / "made"), "--run", str(run), "--out", str(tmp_path / "out"), "--json"]
    assert main.main(command) == (2 if code else 0)
    said = capsys.readouterr()
    if code:
        assert refused_as(said.out, code, "" if exported else str(run), "recipe" if exported else "")
        return
    told = json.loads(said.out)
    assert {stage["stage"] for stage in told["staircase"]["stages"]} >= {CODEC, GENERATED}
    assert AUTOENCODER in told["staircase"]["missing"]
    assert json.loads((tmp_path / "out" / "staircase.json").read_text()) == told


def test_files_that_cannot_be_judged_cost_the_staircase_of_a_run_nothing_else(
    index: ShardIndex, codec, tmp_path: Path, monkeypatch, capsys
):
    run, made = tmp_path / "runs" / "tiny-full-abc", tmp_path / "made" / "Synthetic High"
    write_json(run / "signature.json", {"signature": "abc"})
    write_json(run / "config.json", {"data": {"shards": str(index.folder)}})
    (run / "export").mkdir()
    made.mkdir(parents=True)
    good = sounds(codec, SPECIES[:1])[0].waveform
    broken = good.copy()
    broken[0, 10] = np.nan
    soundfile.write(made / "nan.wav", broken.T, codec.rate_hz, subtype="FLOAT")
    (made / "page.wav").write_text("<html>not found</html>")
    write_wav(tmp_path / "made" / "whose.wav", good, codec.rate_hz)
    monkeypatch.setattr(judges, "find_judge", lambda folder=None: FakeJudge())
    command = ["judge", str(tmp_path / "made"), "--run", str(run)]
    assert main.main([*command, "--json"]) == 2
    assert refused_as(capsys.readouterr().out, "nothing-left", " text")
    write_wav(made / "good.wav", good, codec.rate_hz)
    assert main.main(command) == 0
    text = capsys.readouterr().out
    assert main.main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (verdict,) = told["staircase"]["stages"][-1]["verdicts"]
    assert verdict["right"] and verdict["name"].endswith("good.wav")
    reasons = {Path(one["path"]).name: one["reason"] for one in told["left_out"]}
    assert (
        "NaN" in reasons["nan.wav"] and "text" in reasons["page.wav"] and "no species" in reasons["whose.wav"]
    )
    assert all(f"left out: {name}" in text for name in reasons)
