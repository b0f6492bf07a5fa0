"""A folder of clips beside the real ones of a shard set: what the job tells, and what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from birdsd.jobs import quality as job

from birdsd.config import compose
from birdsd.errors import BadValue, NothingLeft, NotSet
from birdsd.shards.index import ShardIndex
from birdsd.shards.reader import ShardReader
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.fake_judge import FakeJudge
from tests.support.songs import SPECIES, song, write_shards


@pytest.fixture(scope="module")
def codec() -> SpectrogramCodec:
    """A quick one: phases do not matter here."""
    return SpectrogramCodec(
        name="test", rate_hz=16000, bands=64, fmin_hz=200, fmax_hz=8000, frames=128, griffin_lim_iterations=4
    )


@pytest.fixture(scope="module")
def index(codec: SpectrogramCodec, tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    splits = {"train": range(8), "validation": range(8, 11), "test": range(11, 14)}
    return write_shards(tmp_path_factory.mktemp("shards"), codec, splits)


@pytest.fixture(autouse=True)
def fake_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "find_judge", lambda name=None: FakeJudge())


def put(folder: Path, species: str, name: str, sound: np.ndarray, codec: SpectrogramCodec) -> None:
    place = folder / species / f"{name}.wav"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_wav(place, sound, codec.rate_hz)


def measured(sounds: Path, index: ShardIndex, out: Path):
    return job.run(
        compose(
            "quality",
            [f"sounds={sounds}", f"shards={index.folder}", f"out={out}", "resamples=50", "machine=smoke"],
        )
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, codec: SpectrogramCodec) -> Path:
    """Eight songs of new individuals of each species."""
    folder = tmp_path_factory.mktemp("made")
    for species in SPECIES:
        for individual in range(30, 38):
            put(folder, species, f"{species} {individual}", song(species, individual, 0, codec), codec)
    return folder


def test_the_job_tells_rates_copies_and_loudness_and_refuses_the_rest(made, index, codec, tmp_path) -> None:
    outcome = measured(made, index, tmp_path)
    told = json.loads((tmp_path / "quality.json").read_text())
    assert told["judge"]["total"]["right"]["share"] > 0.9 and told["judge_real"]["clips"] == 36
    assert told["quality"]["counts"] == {"training": 48, "held_out": 36, "generated": 24, "each": 24}
    assert "below 200" in told["quality"]["refused"]["KAD and FAD"]
    assert not told["quality"]["copies"]["copied"] and len(told["nearest"]) == 20
    rows = {row["key"]: row for row in told["measures"]["rows"]}
    assert rows["loudness"]["generated"] == pytest.approx(rows["loudness"]["real"], abs=6)
    page = Path(outcome.facts["report"]).read_text()
    for text in ("Quality", "Refused", "noise floor", "Synthetic High", "Fake judge"):
        assert text in page, text
    assert "held-out" in outcome.text


def test_copies_of_training_clips_are_caught_and_softer_ones_are_heard_to_be_softer(
    index, codec, tmp_path
) -> None:
    reader = ShardReader(index, "train", want=("image", "metadata"))
    for number in range(0, len(reader), 2):
        sample = reader.read(number)
        put(
            tmp_path / "copies",
            sample.metadata["species"][0],
            sample.key,
            0.1 * codec.decode(sample.image),
            codec,
        )
    outcome = measured(tmp_path / "copies", index, tmp_path / "out")
    copies = outcome.facts["quality"]["copies"]
    assert copies["copied"] and copies["generated"] < copies["held_out"]
    near = outcome.facts["nearest"][0]
    assert near["cosine_distance"] < 1e-3 and near["correlation"] > 0.9
    assert "copied" in (tmp_path / "out" / "report.html").read_text()
    rows = {row["key"]: row for row in outcome.facts["measures"]["rows"]}
    assert rows["loudness"]["real"] - rows["loudness"]["generated"] == pytest.approx(20, abs=6)


def test_nothing_is_listened_to_again(made, index, tmp_path, monkeypatch) -> None:
    measured(made, index, tmp_path)
    monkeypatch.setattr(FakeJudge, "hear", lambda *_: pytest.fail("it was listened to already"))
    assert measured(made, index, tmp_path).facts["judge"]["total"]["clips"] == 24


def test_clips_of_others_or_of_another_length_are_said(made, index, codec, tmp_path) -> None:
    put(tmp_path, "Synthetic Low", "long", np.tile(song("Synthetic Low", 40, 0, codec), 3), codec)
    put(tmp_path, "Nobody's Bird", "other", song("Synthetic Low", 41, 0, codec), codec)
    outcome = measured(tmp_path, index, tmp_path / "out")
    assert any("other.wav" in line and "Nobody" in line for line in outcome.facts["left_out"])
    assert "1 of 1 clips " in outcome.facts["remarks"][0]
    alone = tmp_path / "alone"
    put(alone, "Nobody's Bird", "other", song("Synthetic Low", 41, 0, codec), codec)
    with refuses(str(alone), "Synthetic High", "birdsd run generate", kind=NothingLeft):
        measured(alone, index, tmp_path / "out")


def test_a_judge_that_knows_none_of_the_species_is_said_and_the_distances_stand(
    made, index, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(job, "find_judge", lambda name=None: FakeJudge(known=()))
    told = measured(made, index, tmp_path).facts
    assert sum(line.startswith("Fake judge ") for line in told["remarks"]) == 1
    assert told["judge"]["total"]["clips"] == 0 and told["quality"]["copies"]["generated"] > 0


def test_a_run_is_a_judge_by_its_name(made, index, tmp_path, monkeypatch) -> None:
    """As in `birdsd judge` and `birdsd run evaluate`; the classifier is taken from the run's folder."""
    asked: list[str | None] = []
    monkeypatch.setattr(job, "find_judge", lambda name=None: asked.append(name) or FakeJudge())
    monkeypatch.setattr(job, "judge_place", lambda name, runs: str(runs / name / "export"))
    words = [f"sounds={made}", f"shards={index.folder}", f"out={tmp_path}", "resamples=2", "judge=MINE"]
    job.run(compose("quality", [*words, "machine=smoke"]))
    assert asked == ["runs/MINE/export"]


def test_what_is_not_set_is_asked_for() -> None:
    with refuses("sounds", "sounds=FOLDER shards=FOLDER", kind=NotSet):
        job.run(compose("quality", ["machine=smoke"]))
    with refuses("resamples=0", kind=BadValue):
        job.run(compose("quality", ["sounds=a", "shards=b", "resamples=0", "machine=smoke"]))
