"""A bank of judged songs: made once, shared out, split, and read back."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from birdsd.errors import AlreadyThere, Damaged, NotFound, UnknownName
from birdsd.runs.share import ArrayShare
from birdsd.scenes.bank import bank as files
from birdsd.scenes.bank.bank import Bank
from birdsd.scenes.bank.clip import Wanted
from birdsd.scenes.bank.fill import fill, fill_from_recordings, groups, kinds_of
from birdsd.scenes.bank.gate import PEOPLE, JudgeGate, OpenGate
from birdsd.scenes.bank.split import SPLITS, split_of
from tests.support.errors import refuses
from tests.support.fake_judge import FakeJudge
from tests.support.songs_of_scenes import RATE_HZ, SPECIES, a_song, clip_with, make_bank, sweep


def wanted(species: str, voice_seed: int = 0, take: int = 0, kind: str = "") -> Wanted:
    return Wanted("e0", species, kind, "", voice_seed, take)


def test_what_is_read_is_what_was_kept(tmp_path):
    bank = Bank(make_bank(tmp_path / "bank"))
    assert bank.species == SPECIES and len(bank) == 12 and bank.rate_hz == RATE_HZ
    clip = bank.clip(wanted("Synthetic Low", 2))
    original = a_song("Synthetic Low", 2)
    assert clip.measured == original.measured and clip.origin == original.origin
    assert np.abs(clip.samples - original.samples).max() < 2**-22
    assert bank.clip(wanted("Synthetic Low", 2, take=5)).id == clip.id, "a voice with one song sings it again"
    assert bank.longest_s("Synthetic Low") >= bank.shortest_s() > 0


def test_what_the_bank_has_not_is_named(tmp_path):
    bank = Bank(make_bank(tmp_path / "bank"))
    with refuses("'Great Tit'", "Synthetic High", kind=NotFound):
        bank.clip(wanted("Great Tit"))
    with refuses("'alarm call' of Synthetic Low", kind=NotFound):
        bank.clip(wanted("Synthetic Low", kind="alarm call"))
    with refuses("nowhere/bank.json", kind=NotFound):
        Bank(tmp_path / "nowhere")
    with refuses("'trian'", "train", kind=UnknownName):
        Bank(tmp_path / "bank", "trian")


def test_a_damaged_song_is_refused_and_not_mixed(tmp_path):
    folder = make_bank(tmp_path / "bank", voices=1)
    sound = next((folder / "clips").glob("Synthetic_Low*.flac"))
    soundfile.write(sound, np.zeros(1000), RATE_HZ, format="FLAC")
    with refuses(sound.name, kind=Damaged):
        Bank(folder).clip(wanted("Synthetic Low"))


def test_a_voice_of_one_split_is_in_no_other_and_more_voices_move_none():
    for species in SPECIES:
        dealt = [split_of(number, species) for number in range(200)]
        assert dealt[:30] == [split_of(number, species) for number in range(30)]
        assert sorted(dealt[:3]) == sorted(SPLITS), "a small bank has all three"
        assert 0.7 < dealt.count("train") / 200 < 0.85 and dealt.count("test") >= 15
    assert len({tuple(split_of(n, s) for n in range(40)) for s in SPECIES}) > 1


def test_songs_heard_in_training_are_never_in_test(tmp_path):
    folder = make_bank(tmp_path / "bank", voices=6)
    heard = {}
    for split in SPLITS:
        bank = Bank(folder, split)
        heard[split] = {bank.clip(wanted(one, seed)).id for one in bank.species for seed in range(40)}
    assert not heard["train"] & heard["test"] and not heard["train"] & heard["validation"]
    assert not heard["test"] & heard["validation"] and sum(map(len, heard.values())) == 18


def test_the_tasks_of_an_array_fill_a_bank_together_and_nobody_makes_a_song_twice(tmp_path):
    made = []

    def make(asked):
        made.extend(one.key for one in asked)
        # The second voice of Low never comes out.
        clips = {one.key: a_song(one.species, int(one.key.split("-v")[1][:4])) for one in asked}
        return {
            key: clip if "Low" not in key or "v0001" not in key
            else files.EventClip(**{**vars(clip), "measured": None, "samples": clip.samples[:0]})
            for key, clip in clips.items()
        }  # fmt: skip

    files.begin(tmp_path, {"rate_hz": RATE_HZ})
    plan = groups(kinds_of(SPECIES, {}), 10)
    for index in (1, 0, 2, 1):  # the second task is tried again
        fill(tmp_path, ArrayShare(index, 3).share(plan), 1, 0, make)
    assert len(made) == len(set(made)) == 30
    bank = Bank(tmp_path)
    assert len(bank) == 29 and bank.failed == 1
    again = fill(tmp_path, groups(kinds_of(SPECIES, {}), 12), 1, 0, make)
    assert sum(again.made.values()) == 6 and again.kept == 30, "two more voices each"


def test_a_bank_of_something_else_is_not_mixed_in(tmp_path):
    files.begin(tmp_path, {"weights": "a", "rate_hz": 16000})
    files.begin(tmp_path, {"weights": "a", "rate_hz": 16000})
    with refuses("weights", "out=", kind=AlreadyThere):
        files.begin(tmp_path, {"weights": "b", "rate_hz": 16000})


def test_songs_cut_out_of_recordings_keep_their_licence_and_who_wrote_the_label(tmp_path):
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for name in ("one", "two"):
        sound = clip_with(sweep(0.5, 3000, 4000), 1.0, 4.0, 0.001) + clip_with(
            sweep(0.3, 3000, 4000), 2.5, 4.0
        )
        soundfile.write(recordings / f"{name}.wav", sound, RATE_HZ)
        (recordings / f"{name}.Table.1.selections.txt").write_text(
            "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
            "1\tSpectrogram 1\t1\t0.95\t1.55\t2800\t4200\tGreat Tit\n"
            "2\tSpectrogram 1\t1\t2.45\t2.85\t2800\t4200\tGreat Tit\n"
        )
    (recordings / "metadata.csv").write_text(
        "path,licence,recordist\none.wav,CC BY 4.0,A. Person\ntwo.wav,CC BY-NC-ND 4.0,B. Person\n"
    )
    files.begin(tmp_path / "bank", {"rate_hz": RATE_HZ})
    done = fill_from_recordings(tmp_path / "bank", recordings, RATE_HZ, 10, ArrayShare(0, 1).share)
    assert done.made == {"Great Tit": 2}, "the recording without derivatives is left out"
    clips = [Bank(tmp_path / "bank").clip(wanted("Great Tit", 0, take)) for take in (0, 1)]
    assert [clip.origin.kind for clip in clips] == ["recorded", "recorded"]
    assert {clip.origin.attribution for clip in clips} == {"A. Person"}
    assert {clip.verdict.judge for clip in clips} == {PEOPLE}
    at = [clip.origin.at_s for clip in clips]
    assert at == pytest.approx([1.0, 2.5], abs=0.02)


def test_the_gate_lets_through_what_the_judge_confirms_and_says_who_judged():
    gate = JudgeGate(FakeJudge(known=SPECIES[:2]), SPECIES)
    high = clip_with(sweep(0.5, 5500, 6000), 0.2, 1.0)
    assert gate.verdict("Synthetic High", high, RATE_HZ).confirmed is True
    heard = gate.verdict("Synthetic Low", high, RATE_HZ)
    assert heard.confirmed is False and heard.named == "Synthetic High" and heard.judge == "Fake judge"
    unknown = gate.verdict("Synthetic Trill", high, RATE_HZ)
    assert unknown.confirmed is None and unknown.passes and unknown.judge == "energy alone"
    silence = np.zeros(RATE_HZ, np.float32)
    assert not gate.verdict("Synthetic High", silence, RATE_HZ).passes
    assert not OpenGate().verdict("Synthetic High", silence, RATE_HZ).passes
