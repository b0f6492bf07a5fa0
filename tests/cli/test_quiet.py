"""What the user reads is birdsd's own: other libraries' remarks stay off the terminal, errors do not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.files import muted
from tests.support.quiet import foreign, training, words
from tests.support.tiny import make_shards
from tests.support.untrained import make_model


def only_ours(folder: Path, *arguments: str) -> str:
    """Run it to a good end; its lines, all of them ours."""
    status, lines = words(folder, *arguments)
    assert status == 0, "\n".join(lines)
    assert foreign(lines) == []
    return "\n".join(lines)


def test_the_shapes_know_foreign_lines():
    seen = [
        "[2026-11-27 09:48:10,143] [WARNING] [real_accelerator.py:213:get_accelerator] Setting accelerator",
        "[INFO] [real_accelerator.py:254:get_accelerator] Setting ds_accelerator to cpu (auto detect)",
        "Failed to load CPU gemm_4bit_forward from kernels-community: No module named 'kernels'.",
        "Loading pipeline components...: 100%|##########| 5/5 [00:00<00:00, 71.52it/s]",
        "/usr/lib/python3/peft/save_and_load.py:313: UserWarning: Could not find a config file",
        "[Gloo] Rank 0 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1",
        "[src/libmpg123/id3.c:process_comment():587] error: No comment text / valid description?",
        "Note: Trying to resync...",
        "[W1127 NNPACK.cpp:64] Could not initialize NNPACK! Reason: Unsupported hardware.",
        "  warnings.warn(",
    ]
    assert foreign(seen) == seen


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("quiet")
    make_shards(folder / "shards")
    make_model(folder / "model")
    return folder


@pytest.mark.slow
def test_training_generating_and_carrying_over_speak_with_one_voice(place: Path):
    said = only_ours(place, "run", *training("method=lora", "machine.optimizer_bits=8"))
    assert "fp32 on cpu" in said, "what birdsd says is there"
    run = next((place / "runs").glob("tiny-lora-*"))
    said = only_ours(
        place, "run", "generate", "run=model", f"add=[{run}]", "prompt=an American Robin", "steps=2",
        "machine=smoke",
    )  # fmt: skip
    assert "1 clips" in said and "generated" in said
    assert "diffusers" in only_ours(
        place, "export", str(run), "--format", "diffusers", "peft", "--out", "out"
    )
    assert "ckpt" in only_ours(place, "export", "model", "--format", "ckpt", "--out", "out")
    only_ours(place, "import", str(next((place / "out").rglob("*.ckpt"))), "--base", "model")


@pytest.mark.slow
def test_deepspeed_is_not_heard_here_and_in_a_job_it_has_a_file_of_its_own(place: Path):
    pytest.importorskip("deepspeed")
    zero = ["method=full", "machine.engine=deepspeed", "machine.zero_stage=2"]
    only_ours(place, "run", *training(*zero))
    only_ours(
        place, "submit", *training(*zero, "seed=1"), "site=local", "tasks_per_node=2", "--wait"
    )  # its log is shown here
    run = max((place / "runs").glob("tiny-full-*"), key=lambda folder: folder.stat().st_mtime)
    logs = sorted(run.glob("allocations/*/rank-*.log"))
    assert len(logs) == 2
    for log in logs:
        assert foreign(log.read_text().splitlines()) == []
    aside = [path.read_text() for path in sorted(run.glob("allocations/*/libraries-*.log"))]
    assert any("INFO submitit: " in text for text in aside), "what may help is kept"


_LIBRARY = """
import logging, os, sys, warnings
warnings.simplefilter("always")
from contextlib import nullcontext
from pathlib import Path
from birdsd import quiet

def library():
    other = logging.getLogger("other")
    other.addHandler(logging.StreamHandler())
    other.warning("a remark")
    other.warning("%d is no number", "this")
    warnings.warn("will change", FutureWarning)
    other.error("a real error")
    other.handlers.clear()

with {context}:
    library()
    print(os.environ.get("TORCH_CPP_LOG_LEVEL"))
print("outside", file=sys.stderr)
library()
"""


def library(context: str, *flags: str, **variables: str) -> tuple[str, str, str]:
    """(stderr inside the context, stderr after it, stdout) of a program with a library that talks."""
    # Other tests of this process may have run commands that chose what torch says.
    clean = {name: value for name, value in os.environ.items() if name != "TORCH_CPP_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, *flags, "-c", _LIBRARY.format(context=context)],
        env={**clean, "BIRDSD_CHOSE": "", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    inside, _, after = done.stderr.partition("outside\n")
    return inside, after, done.stdout.strip()


def test_remarks_are_dropped_errors_come_through_and_afterwards_all_is_as_before():
    inside, after, level = library("quiet.terminal_for_us()")
    assert inside == "a real error\n"
    assert "a remark" in after and "will change" in after
    assert level == "ERROR"


def test_who_wants_to_see_them_can():
    inside, _, level = library("quiet.terminal_for_us()", BIRDSD_VERBOSE="1")
    assert "a remark" in inside and "will change" in inside and level == "None"
    inside, _, _ = library("quiet.terminal_for_us()", "-W", "default")
    assert "will change" in inside and "a remark" not in inside


def test_in_a_job_they_are_kept_beside_the_log(tmp_path: Path):
    kept = tmp_path / "libraries.log"
    context = f"nullcontext(quiet.libraries_in(Path({str(kept)!r})))"
    chosen = {"TORCH_CPP_LOG_LEVEL": "ERROR", "BIRDSD_CHOSE": "TORCH_CPP_LOG_LEVEL"}
    inside, _, level = library(context, **chosen)
    assert inside == "a real error\n"
    assert level == "None", "on the terminal it was our choice, in a log torch may speak"
    text = kept.read_text()
    assert "WARNING other: a remark" in text and "FutureWarning: will change" in text and "real" not in text
    assert library(context, TORCH_CPP_LOG_LEVEL="INFO")[2] == "INFO"


def test_an_error_of_ours_and_a_traceback_come_through(place: Path):
    status, lines = words(
        place, "run", *training("method=full", "machine.zero_stage=9", "machine.engine=deepspeed", "seed=3")
    )
    assert status == 2 and any(line.startswith("birdsd: ") and "9" in line for line in lines)
    program = "from birdsd import quiet\nwith quiet.terminal_for_us():\n    1 / 0"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("ZeroDivisionError: ")


def test_what_c_code_prints_is_muted_for_a_moment_only(capfd):
    os.write(2, b"before ")
    with muted(2):
        os.write(2, b"one ")
        with muted(2):
            os.write(2, b"two ")
        os.write(2, b"three ")
        os.write(1, b"the other stream")
    os.write(2, b"after")
    out, error = capfd.readouterr()
    assert error == "before after" and out == "the other stream"
    with pytest.raises(ValueError), muted(2):
        raise ValueError
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_a_process_without_standard_error_is_no_obstacle():
    program = "import os\nfrom birdsd.files import muted\nos.close(2)\nwith muted(2):\n    print('well')"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "well\n"


@pytest.mark.slow
def test_a_damaged_mp3_is_told_of_in_our_words_alone(tmp_path: Path):
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile writes no MP3")
    draw = np.random.default_rng(0)
    path = tmp_path / "recordings" / "robin" / "a.mp3"
    path.parent.mkdir(parents=True)
    soundfile.write(path, 0.1 * draw.standard_normal(32000 * 10), 32000, format="MP3")
    whole = path.read_bytes()
    damaged = bytearray(whole)
    for place in draw.integers(2000, len(damaged), 200):
        damaged[place] ^= 0xFF
    path.with_name("b.mp3").write_bytes(damaged)
    # A comment without its end, as some recorders write them.
    tag = b"ID3\x03\x00\x00\x00\x00\x02\x01COMM\x00\x00\x00\x10\x00\x00\x01eng"
    tag += bytes(draw.integers(1, 255, 300, dtype=np.uint8))
    path.with_name("c.mp3").write_bytes(tag + whole)
    shards = ["data.recordings=recordings", "data.shards=shards", "codec=birdsong-small", "machine=smoke"]
    for command in (["run", "prepare", *shards], ["audit", "recordings", "codec=birdsong-small"]):
        status, lines = words(tmp_path, *command)
        assert status == 0, "\n".join(lines)
        assert not [line for line in lines if re.search(r"mpg123|^(Note|Warning): ", line)]
        assert any("b.mp3" in line for line in lines), "that it is damaged is said"
