"""The command line as a user meets it: help, presets, mistakes, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from birdsd.cli import main
from birdsd.schema import JOBS


def said(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_presets_are_listed_with_a_line_each(capsys) -> None:
    status, out, _ = said(capsys, "presets")
    assert status == 0
    for expected in ("machine=smoke", "model=tiny", "method=full", "codec=birdsong", "data=song", *JOBS):
        assert expected in out
    _, out, _ = said(capsys, "presets", "--json")
    assert json.loads(out)["machine"]["smoke"].startswith("Two CPU cores")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "trian"], "'train'"),
        (["run", "train", "machine=lapto-4gb"], "'laptop-4gb'"),
        (["run", "train"], "data.shards"),
        (["run", "train", "data.shards=/nowhere"], "/nowhere"),
        (["inspect", "/nowhere"], "/nowhere"),
        (["audit", "/nowhere"], "/nowhere"),
        (["audit", ".", "kodec=birdsong"], "codec=PRESET"),
    ],
)
def test_a_mistake_is_a_sentence_and_a_status(capsys, arguments: list[str], expected: str) -> None:
    status, out, err = said(capsys, *arguments)
    assert status == 2
    assert expected in err
    assert "Traceback" not in err
    assert out == ""


def test_an_unknown_verb_names_the_nearest(capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main.main(["insepct", "x"])
    assert left.value.code == 2
    assert "'inspect'" in capsys.readouterr().err


def test_settings_may_stand_on_both_sides_of_a_flag(capsys) -> None:
    status, out, _ = said(capsys, "run", "train", "machine=smoke", "--keys", "--json", "seed=7")
    assert status == 0
    assert json.loads(out)["seed"] == 7


def test_keys_show_what_a_job_can_be_told(capsys) -> None:
    status, out, _ = said(capsys, "run", "prepare", "codec=riffusion", "--keys")
    assert status == 0
    assert "codec.rate_hz=44100" in out


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, root]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("birdsd-*.whl")
    # Unpacked in front of everything else, in a folder that is no checkout: what pip would install.
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True
    )
    script = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import birdsd.cli.main, birdsd.jobs.train as t;"
        "print(t.__file__); sys.exit(birdsd.cli.main.main(['presets']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.startswith(str(site))
    assert "machine=smoke" in done.stdout
