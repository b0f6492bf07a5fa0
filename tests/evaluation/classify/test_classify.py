"""`birdsd classify`: hours through windows, in processes, interrupted and gone on, into tables of others."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from birdsd.jobs import evaluate

from birdsd.cli import main
from birdsd.config import compose
from birdsd.diffusion.classifiers.folder import load_classifier
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft
from birdsd.evaluation.classify import classify as module
from birdsd.evaluation.classify import windows as windows_of_classify
from birdsd.evaluation.classify.classify import ClassifySettings, Listener, classify
from birdsd.evaluation.classify.detections import merged
from birdsd.evaluation.classify.tables import write_tables
from birdsd.evaluation.classify.windows import Windows
from birdsd.evaluation.judges.sounds import Detection
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.audacity import read_audacity
from birdsd.sound.labels.raven import read_raven
from tests.support.classified import HIGH, LOW, song, song_shards, taught
from tests.support.errors import refused_as, refuses
from tests.support.remarks import remarked
from tests.support.tiny import CODEC

CLIP_S = CODEC.clip_s


@pytest.fixture(scope="module")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = song_shards(tmp_path_factory.mktemp("songs"))
    return taught(shards, tmp_path_factory.mktemp("run") / "birds") / "export"


@pytest.fixture(scope="module")
def crnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shards = song_shards(tmp_path_factory.mktemp("strong"), strong=True)
    folder = tmp_path_factory.mktemp("run") / "frames"
    return taught(shards, folder, network="crnn", total_samples=400) / "export"


def night(path: Path, rate_hz: int = 16000, seconds: float = 6.0) -> Path:
    """High Bird from 1 s to 2 s, Low Bird from 4 s to 5 s."""
    sound = song((), 1, seconds, rate_hz)
    for name, at in ((HIGH, 1), (LOW, 4)):
        sound[at * rate_hz : (at + 1) * rate_hz] = song((name,), 2, 1.0, rate_hz)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_wav(path, sound, rate_hz)
    return path


def spans(found: list[Detection], species: str) -> list[tuple[float, float]]:
    return [(one.start_s, one.end_s) for one in found if one.species == species]


# -- windows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_windows_cover_a_recording_to_its_end(cnn: Path, overlap: float) -> None:
    windows = Windows(load_classifier(cnn), overlap)
    for seconds in (0.1, CLIP_S, 1.0, 3.3, 7.77):
        count = windows.count(seconds)
        end_s = (count - 1) * windows.step_s + CLIP_S
        assert count == 1 or end_s - windows.step_s < seconds, "the last one hears something new"
        assert end_s > seconds - windows.step_s / 2, "and no more than a third of a window is left"


def test_a_window_says_what_the_judge_says_of_it_alone(cnn: Path, tmp_path: Path) -> None:
    made, path = load_classifier(cnn), night(tmp_path / "night.wav")
    windows, sound = Windows(made, 0.5), song((), 1, 6.0)
    for name, at in ((HIGH, 1), (LOW, 4)):
        sound[at * 16000 : (at + 1) * 16000] = song((name,), 2, 1.0)
    count = windows.count(6.0)
    found = np.concatenate([heard.logits for _, heard in windows.heard(path, 0, count)])
    assert found.shape == (count, 2)
    for number in (2, 5, 16):
        first = round(number * windows.step_s * 16000)
        alone = made.hear(
            [made.grid.power(CODEC.encode(sound[first : first + CODEC.samples_per_clip], 16000))]
        )
        np.testing.assert_allclose(
            found[number], alone.logits[0], atol=0.5
        )  # the edges know their neighbours


def test_stretches_join_without_a_seam(cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, settings = night(tmp_path / "night.wav"), ClassifySettings(0.75, 0.5)
    whole = classify([path], cnn, tmp_path / "whole", settings, processes=1, progress=False)
    monkeypatch.setattr(module, "STRETCH_S", 1.0)
    pieces = classify([path], cnn, tmp_path / "pieces", settings, processes=1, progress=False)
    assert len(list((tmp_path / "pieces/parts").rglob("*.json"))) > 3
    for name in (HIGH, LOW):
        assert spans(whole.detections[0], name) == spans(pieces.detections[0], name)


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_blocks_of_a_stretch_say_what_it_says_as_a_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    path = night(tmp_path / "night.wav", rate_hz=22050)
    windows = Windows(load_classifier(request.getfixturevalue(kind)), 0.75)
    first, count = 3, windows.count(6.0) - 3
    whole = list(windows.heard(path, first, count))
    monkeypatch.setattr(windows_of_classify, "_BLOCK_S", 1.0)
    blocks = list(windows.heard(path, first, count))
    assert len(blocks) > len(whole) and blocks[0][0] == first
    assert [start for start, _ in blocks] == list(
        np.cumsum([first, *(len(h.logits) for _, h in blocks)])[:-1]
    )
    for part in ("logits", "frames") if kind == "crnn" else ("logits",):
        wanted, found = (np.concatenate([getattr(h, part) for _, h in one]) for one in (whole, blocks))
        np.testing.assert_allclose(found, wanted, atol=1e-3)  # a frame at an edge once heard its mirror image


def test_birds_are_found_where_they_sing(cnn: Path, tmp_path: Path) -> None:
    path = night(tmp_path / "night.wav")
    found = classify(
        [path], cnn, tmp_path / "out", ClassifySettings(0.75, 0.5, True), processes=1, progress=False
    )
    high, low = (
        max(spans(found.detections[0], name), key=lambda span: span[1] - span[0]) for name in (HIGH, LOW)
    )
    assert high[0] == pytest.approx(1, abs=CLIP_S) and high[1] == pytest.approx(2, abs=CLIP_S)
    assert low[0] == pytest.approx(4, abs=CLIP_S) and low[1] == pytest.approx(5, abs=CLIP_S)


def test_a_crnn_says_when_within_its_windows(crnn: Path, tmp_path: Path) -> None:
    path = night(tmp_path / "night.wav")
    settings = ClassifySettings(0.75, 0.5, strong=True)
    found = classify([path], crnn, tmp_path / "out", settings, processes=1, progress=False).detections[0]
    longest = max(spans(found, LOW), key=lambda span: span[1] - span[0])
    assert longest[0] == pytest.approx(4, abs=0.2) and longest[1] == pytest.approx(5, abs=0.2)


def test_evaluate_takes_the_frames_of_a_crnn(crnn: Path, tmp_path: Path) -> None:
    place = night(tmp_path / "in" / "night.wav").parent
    rows = [("file", "start", "end", "species"), ("night.wav", 1, 2, HIGH), ("night.wav", 4, 5, LOW)]
    (place / "labels.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    words = [f"data={place}", f"judge={crnn}", f"out={tmp_path / 'out'}", "strong=true", "collar_s=0.2"]
    told = evaluate.run(compose("evaluate", [*words, "resamples=50", "thresholds=own"])).facts["events"]
    assert told["unit"].startswith("frames of") and told["classes"][LOW]["events"]["hits"] == 1
    assert f"made of {told['unit']}" in (tmp_path / "out/evaluation.html").read_text()


def test_only_a_crnn_says_when(cnn: Path, tmp_path: Path) -> None:
    with refuses("strong=true", kind=Mismatch):
        classify([night(tmp_path / "a.wav")], cnn, tmp_path / "out", ClassifySettings(strong=True))


def test_what_overlaps_or_touches_is_one() -> None:
    rows = [(0, 2, "a", 0.5), (1, 3, "a", 0.9), (3, 4, "a", 0.6), (5, 6, "a", 0.7), (1, 2, "b", 0.8)]
    found = merged(Detection(*row) for row in rows)
    assert [(d.start_s, d.end_s, d.species, d.score) for d in found] == [
        (0, 4, "a", 0.9), (1, 2, "b", 0.8), (5, 6, "a", 0.7),
    ]  # fmt: skip


# -- bad input --------------------------------------------------------------------------------------


def test_silence_holds_no_bird_whatever_the_network_says(cnn: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "still.wav", np.zeros(32000, np.float32), 16000)
    found = classify(
        [tmp_path], cnn, tmp_path / "out", ClassifySettings(0.0, 1e-6), processes=1, progress=False
    )
    assert found.detections == [[]]


def test_a_lower_rate_than_the_codecs_is_said(cnn: Path, tmp_path: Path) -> None:
    path = night(tmp_path / "night.wav", 8000)
    found = classify([path], cnn, tmp_path / "out", ClassifySettings(0.5, 0.5), processes=1, progress=False)
    told = remarked(found.remarks, "rate-too-low")
    assert told.facts == {"recordings": ["night.wav"], "needed_hz": 16000}
    assert re.findall(r"\d+", told)[:2] == ["1", "16000"] and "night.wav" in told
    assert found.names == ["night.wav"], "and it is heard all the same"


def test_a_recording_that_hardly_fills_a_window_is_said(cnn: Path, tmp_path: Path) -> None:
    for name, seconds in (("click", 0.02), ("short", 0.8 * CLIP_S)):
        write_wav(tmp_path / f"in/{name}.wav", song((HIGH,), 2, seconds, 16000), 16000)
    found = classify(
        [tmp_path / "in"], cnn, tmp_path / "out", ClassifySettings(), processes=1, progress=False
    )
    said = remarked(found.remarks, "recording-too-short")
    assert said.facts["recordings"] == ["click.wav"] and "click.wav" in said


def test_tables_have_the_same_columns_where_nothing_is_heard(cnn: Path, tmp_path: Path) -> None:
    night(tmp_path / "in/night.wav")
    write_wav(tmp_path / "in/silence.wav", np.zeros(32000, np.float32), 16000)
    found = classify(
        [tmp_path / "in"], cnn, tmp_path / "out", ClassifySettings(), processes=1, progress=False
    )
    write_tables(found, CODEC, ["raven"])
    heads = [path.read_text().splitlines()[0] for path in sorted((tmp_path / "out/tables").iterdir())]
    assert len(heads) == 2 and heads[0] == heads[1] and heads[0].endswith("Confidence")


def test_evaluation_says_of_a_lower_rate_too(cnn: Path, tmp_path: Path) -> None:
    for place, species in enumerate((HIGH, LOW)):
        for number in range(2):
            sound = song((species,), 40 + 2 * place + number, 1.0, 8000 if number else 16000)
            (tmp_path / "birds" / species).mkdir(parents=True, exist_ok=True)
            write_wav(
                tmp_path / "birds" / species / f"r{place}{number}.wav", sound, 8000 if number else 16000
            )
    asked = [
        f"data.recordings={tmp_path / 'birds'}",
        f"judge={cnn}",
        f"out={tmp_path / 'out'}",
        "resamples=20",
    ]
    notes = evaluate.run(compose("evaluate", asked)).facts["notes"]
    told = remarked(notes, "rate-too-low")
    assert told.facts == {"recordings": ["r01.wav", "r11.wav"], "needed_hz": 16000}
    assert told.startswith("2 ") and "(r01.wav, ...)" in told and "16000 Hz" in told


def test_what_cannot_be_read_is_left_out_and_the_others_go_on(cnn: Path, tmp_path: Path) -> None:
    night(tmp_path / "in/a.wav")
    (tmp_path / "in/b.wav").write_bytes(b"no sound")
    found = classify(
        [tmp_path / "in"], cnn, tmp_path / "out", ClassifySettings(), processes=1, progress=False
    )
    assert found.names == ["a.wav"] and [path.name for path, _ in found.left_out] == ["b.wav"]
    with refuses("b.wav", kind=NothingLeft):
        classify([tmp_path / "in/b.wav"], cnn, tmp_path / "out2", ClassifySettings())
    with refuses("c.wav", kind=NotFound):
        classify([tmp_path / "c.wav"], cnn, tmp_path / "out3", ClassifySettings())


@pytest.mark.parametrize(
    "changes", [{"overlap": 1.0}, {"overlap": -0.1}, {"threshold": 0.0}, {"threshold": 2.0}]
)
def test_settings_that_make_no_sense_are_refused(cnn: Path, tmp_path: Path, changes: dict) -> None:
    with refuses(next(f"{key}={value:g}" for key, value in changes.items()), kind=BadValue):
        classify([night(tmp_path / "a.wav")], cnn, tmp_path / "out", ClassifySettings(**changes))


# -- interrupted ------------------------------------------------------------------------------------


def test_interrupted_it_goes_on(cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STRETCH_S", 1.0)
    recordings = [night(tmp_path / "in" / f"{k}.wav") for k in range(2)]
    settings, hear, heard = ClassifySettings(0.5, 0.5), Listener.hear, []

    def dying(self, stretch):
        if len(heard) == 5:
            raise KeyboardInterrupt
        heard.append(stretch)
        return hear(self, stretch)

    monkeypatch.setattr(Listener, "hear", dying)
    with pytest.raises(KeyboardInterrupt):
        classify([tmp_path / "in"], cnn, tmp_path / "out", settings, processes=1, progress=False)
    monkeypatch.setattr(Listener, "hear", hear)
    went_on = classify([tmp_path / "in"], cnn, tmp_path / "out", settings, processes=1, progress=False)
    alone = classify([tmp_path / "in"], cnn, tmp_path / "alone", settings, processes=1, progress=False)
    assert went_on.heard_now == went_on.windows - sum(one.count for one in heard) > 0
    assert went_on.detections == alone.detections
    night(recordings[1], seconds=7.0)  # another recording under the same name is heard anew
    changed = classify([tmp_path / "in"], cnn, tmp_path / "out", settings, processes=1, progress=False)
    assert 0 < changed.heard_now < changed.windows


def test_a_folder_holds_the_results_of_one_classifier(cnn: Path, crnn: Path, tmp_path: Path) -> None:
    path = night(tmp_path / "a.wav")
    classify([path], cnn, tmp_path / "out", ClassifySettings(), processes=1, progress=False)
    with refuses("(overlap)", "out=FOLDER", kind=Mismatch):
        classify([path], cnn, tmp_path / "out", ClassifySettings(overlap=0.25))
    with refuses("(thresholds, weights)", "out=FOLDER", kind=Mismatch):
        classify([path], crnn, tmp_path / "out", ClassifySettings())


@pytest.mark.slow
def test_several_processes_hear_the_same(cnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        night(tmp_path / "in" / f"{number}.wav")
    settings = ClassifySettings(0.5, 0.5)
    one, two = (
        classify([tmp_path / "in"], cnn, tmp_path / f"out{n}", settings, processes=n, progress=False)
        for n in (1, 2)
    )
    assert one.names == two.names
    for ours, theirs in zip(one.detections, two.detections, strict=True):
        assert [(d.start_s, d.species) for d in ours] == [(d.start_s, d.species) for d in theirs]
        np.testing.assert_allclose([d.score for d in ours], [d.score for d in theirs], atol=1e-5)


# -- the command line -------------------------------------------------------------------------------


def test_the_tables_are_read_back(cnn: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    import pyarrow.parquet

    monkeypatch.chdir(tmp_path)
    night(tmp_path / "in/sub/night.wav")
    words = ["classify", "in", f"run={cnn.parent}", "merge=true", "processes=1"]
    assert main.main([*words, "format=raven,audacity,csv,parquet", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = told["recordings"][0]["detections"]
    assert {row["species"] for row in rows} == {HIGH, LOW}
    out = tmp_path / "classified"
    raven = read_raven(out / "tables/night.wav.selections.txt")
    tracks = read_audacity(out / "tables/night.wav.labels.txt")
    with open(out / "detections.csv", newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    table = pyarrow.parquet.read_table(out / "detections.parquet").to_pylist()
    assert len(raven) == len(tracks) == len(lines) == len(table) == len(rows)
    for row, line, entry in zip(rows, lines, table, strict=True):
        assert line["species"] == entry["species"] == row["species"]
        assert float(line["start_s"]) == pytest.approx(row["start_s"], abs=1e-4)
    assert "Confidence" in (out / "tables/night.wav.selections.txt").read_text()


def test_it_says_what_it_found_and_what_to_do(cnn: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    night(tmp_path / "night.wav")
    for words, code, named, offers in (
        (["night.wav"], "not-set", "run", "run=RUN"),
        ([f"run={cnn}"], "not-set", "recordings", "sound files"),
        (["night.wav", f"run={cnn}", "overlapp=0.5"], "unknown-name", "overlapp", "overlap"),
        (["night.wav", f"run={cnn}", "overlap=half"], "bad-value", "overlap=half", "number"),
        (["night.wav", f"run={cnn}", "merge=yes"], "bad-value", "merge=yes", "false"),
        (["night.wav", f"run={cnn}", "format=xml"], "unknown-name", "xml", "raven"),
        (["night.wav", "run=nothing"], "unknown-name", "nothing", ""),
        (["night.wav", f"run={tmp_path}"], "not-found", str(tmp_path), "method=classifier"),
    ):
        assert main.main(["classify", *words, "--json"]) == 2
        said = capsys.readouterr()
        assert refused_as(said.out, code, named, offers), words
        assert named in said.err and offers in said.err
    assert main.main(["classify", "night.wav", f"run={cnn}", "processes=1"]) == 0
    told = capsys.readouterr().out
    assert "1 recording, " in told and HIGH in told and "classified" in told
    windows = re.search(r"(\d+) windows", told)[1]
    assert main.main(["classify", "night.wav", f"run={cnn}", "processes=1"]) == 0
    assert f"{windows} windows ({windows} " in capsys.readouterr().out, "all of them were heard before"
