"""`birdsd run scene` with prompts or way=canvas: on a tiny model, one call a window, and labels that say
"asked for"."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.long import window_starts
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import AlreadyThere, BadValue, Mismatch, NotSet, UnknownName, Unsupported
from birdsd.jobs_api import load_job
from birdsd.scenes.canvas import moving
from birdsd.scenes.canvas.asked import animation, regions
from birdsd.scenes.canvas.made import column_s, columns_of, drawn
from birdsd.scenes.scene import Event, Scene
from birdsd.scenes.schedule import solve
from birdsd.schema import SceneConfig
from tests.support.errors import refuses
from tests.support.threads import one_thread as one_thread
from tests.support.tiny import CODEC
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained

ROBIN, WREN = "an American Robin", "a Eurasian Wren"


@pytest.fixture(scope="module")
def model(pipeline_folder) -> Generator:
    return Generator(pipeline_folder)


def run(pipeline_folder: Path, out: Path, **changes):
    settings = {"steps": 2, "guidance": 2.0, "scheduler": "ddim", "run": str(pipeline_folder), **changes}
    return load_job("scene")(SceneConfig(out=str(out), **settings))


def made(out: Path) -> Path:
    return next(path.parent for path in out.glob("*/canvas.json"))


def test_each_window_is_asked_once_a_step_however_many_prompts_there_are(model, monkeypatch):
    """At most 1.15 times the calls that the windows need: here exactly as many."""
    events = tuple(
        Event(
            f"e{k}",
            ("American Robin", "Eurasian Wren")[k % 2],
            onset_s=0.3 + k,
            duration_s=0.7,
            level_db=-27.0,
        )
        for k in range(8)
    )
    canvas = regions(solve(Scene(duration_s=9, events=events)))
    assert len(canvas.marks) == 17 and len(canvas.prompts) == 3
    asked, usual = [], model.pipeline.unet.forward
    monkeypatch.setattr(
        model.pipeline.unet,
        "forward",
        lambda x, *rest, **named: asked.append(len(x)) or usual(x, *rest, **named),
    )
    request = Request((ROBIN,), steps=3, guidance=1.0)
    latents = drawn(model, request, canvas)
    windows = window_starts(latents.shape[-1], model.latent_shape()[2])
    assert sum(asked) <= 1.15 * 3 * len(windows) and sum(asked) == 3 * len(windows)


def test_what_is_asked_for_in_one_region_changes_that_region_most(model):
    """Elsewhere only what windows and convolutions carry over changes."""

    def canvas(second: str):
        return animation((ROBIN,), (), 4) if second == ROBIN else regions(
            solve(Scene(duration_s=4, events=(
                Event("a", "American Robin", onset_s=0, duration_s=2, level_db=-27.0),
                Event("b", second, onset_s=2, duration_s=2, level_db=-27.0),
            )))
        )  # fmt: skip

    request = Request((ROBIN,), steps=3, guidance=6.0)
    same, other = drawn(model, request, canvas(ROBIN)), drawn(model, request, canvas("Eurasian Wren"))
    change = np.square((same - other).numpy()).sum((0, 1, 2))
    half = round(2 / column_s(model))
    assert change[half:].mean() > 2 * change[:half].mean()


def test_an_animation_is_sound_and_a_picture_that_moves(pipeline_folder, tmp_path):
    from PIL import Image

    outcome = run(pipeline_folder, tmp_path, prompts=[ROBIN, WREN], times=[0, 2], moving="gif")
    folder = made(tmp_path)
    sound, rate_hz = soundfile.read(next(folder.glob("*.flac")))
    assert rate_hz == CODEC.rate_hz and len(sound) == 2 * rate_hz
    with Image.open(next(folder.glob("*.gif"))) as picture:
        assert picture.n_frames == 20 and picture.info["duration"] == 100 and picture.info["loop"] == 0
        frames = []
        for number in (0, 19):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB"), np.int64))
    assert np.abs(frames[0] - frames[1]).mean() > 1, "it moves"
    rows = list(csv.DictReader(next(folder.glob("*.asked.csv")).open()))
    assert [(row["prompt"], row["then"], row["species"]) for row in rows] == [(ROBIN, WREN, "")]
    assert str(folder) in outcome.text
    again = run(pipeline_folder, tmp_path, prompts=[ROBIN, WREN], times=[0, 2], moving="gif")
    assert again.facts["nothing_to_do"]
    with refuses("an_American_Robin_to_a_Eurasian_Wren", "out=", kind=AlreadyThere):
        run(pipeline_folder, tmp_path, prompts=[ROBIN, WREN], times=[0, 3], moving="gif")


def test_a_canvas_says_what_was_asked_for_and_never_that_it_was_measured(pipeline_folder, tmp_path):
    prose = "an American Robin followed by a Eurasian Wren"
    run(pipeline_folder, tmp_path / "out", prompt=prose, way="canvas", loop=True)
    folder = made(tmp_path / "out")
    told = json.loads((folder / "canvas.json").read_text())
    assert told["labels"] == "asked for" and told["measured"] is False
    assert {one["status"] for one in told["asked"]} == {"asked for"}
    species = [one["species"] for one in told["asked"] if one["species"]]
    assert species == [["American Robin"], ["Eurasian Wren"]]
    track = next(folder.glob("*.asked.txt")).read_text()
    assert track.count("asked for: ") == len(told["asked"])
    assert not list(folder.glob("*selections.txt")) and not (folder / "labels.json").exists()
    assert (folder / ".not-recordings").is_file(), "nothing that prepare takes for labelled recordings"
    sound, _ = soundfile.read(next(folder.glob("*.flac")))
    assert abs(sound[0] - sound[-1]) <= np.percentile(np.abs(np.diff(sound)), 99)
    run(pipeline_folder, tmp_path / "again", recipe=str(folder / "canvas.json"), run=None)
    other = made(tmp_path / "again")
    assert next(other.glob("*.flac")).read_bytes() == next(folder.glob("*.flac")).read_bytes()


def test_one_prompt_is_a_clip_of_any_length(pipeline_folder, tmp_path):
    run(pipeline_folder, tmp_path, prompts=[ROBIN], duration_s=7.5, moving="none", format="wav")
    assert soundfile.info(next(made(tmp_path).glob("*.wav"))).duration == 7.5


def test_a_long_loop_is_decoded_in_blocks_and_still_goes_round(model, monkeypatch):
    from birdsd.scenes.canvas import made as room

    monkeypatch.setattr(room, "WHOLE_S", 1.0)
    canvas = animation((ROBIN,), (), 6.0, loop=True)
    sound = np.concatenate(list(room.made_canvas(model, Request((ROBIN,), steps=2), canvas)))
    assert len(sound) == columns_of(model, canvas) * 4 * CODEC.hop
    assert abs(sound[0] - sound[-1]) <= np.percentile(np.abs(np.diff(sound)), 99)


@pytest.mark.parametrize(
    ("changes", "kind", "named"),
    [
        ({"way": "cloth", "prompt": "an American Robin"}, UnknownName, "'cloth'"),
        ({"prompts": [ROBIN], "prompt": "an American Robin"}, Mismatch, "prompts and prompt"),
        ({"prompts": [ROBIN], "bank": "bank"}, Mismatch, "bank"),
        ({"prompts": [ROBIN], "moving": "film"}, UnknownName, "'film'"),
        ({"prompts": [ROBIN], "format": "mp3"}, BadValue, "format=mp3"),
        ({"times": [1.0], "prompt": "an American Robin"}, NotSet, "times"),
        ({"prompts": [ROBIN], "run": None}, NotSet, "run"),
    ],
)
def test_settings_that_contradict_are_refused(pipeline_folder, tmp_path, changes, kind, named):
    with refuses(named, kind=kind):
        run(pipeline_folder, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "kind", "named"),
    [
        ({"prompts": []}, NotSet, "no scene"),
        ({"prompts": ["", ROBIN]}, NotSet, "prompts is empty"),
        ({"prompts": [ROBIN, WREN], "times": [1.0]}, Mismatch, "2 prompts and 1 times"),
        ({"prompts": [ROBIN, WREN], "times": [2.0, 1.0]}, BadValue, "times=[2.0, 1.0]"),
        ({"prompts": [ROBIN, WREN], "times": [0.0, float("nan")]}, BadValue, "nan"),
        ({"prompts": [ROBIN, WREN], "times": [0.0, -1.0]}, BadValue, "-1.0"),
        ({"prompts": [ROBIN, WREN], "times": [0.0, 9.0], "duration_s": 5.0}, BadValue, "9 s"),
        ({"prompts": [ROBIN], "count": 0}, BadValue, "count=0"),
        ({"prompt": "an American Robin", "scene": "a.yaml"}, Mismatch, "prompt and scene"),
        ({"prompt": "an American Robin", "count": 0}, BadValue, "count=0"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    pipeline_folder, tmp_path, monkeypatch, changes, kind, named
):
    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("birdsd.scenes.canvas.job.load_model", loaded)
    monkeypatch.setattr("birdsd.scenes.compose.makers.load_model", loaded)
    with refuses(named, kind=kind):
        run(pipeline_folder, tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_without_ffmpeg_mp4_is_refused_and_auto_says_so(pipeline_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(moving.shutil, "which", lambda _: None)
    with refuses("moving=mp4", "moving=gif", kind=Unsupported):
        run(pipeline_folder, tmp_path, prompts=[ROBIN, WREN], moving="mp4")
    outcome = run(pipeline_folder, tmp_path, prompts=[ROBIN, WREN], times=[0, 1])
    assert moving.NO_FFMPEG in outcome.text and list(made(tmp_path).glob("*.gif"))


FFMPEG = """#!/bin/sh
for last; do :; done
wc -c > "$last"
"""


def test_ffmpeg_is_given_every_frame_whole(tmp_path, monkeypatch):
    """A program of that name which counts what it is given: ffmpeg itself is not everywhere."""
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text(FFMPEG)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    sound = tmp_path / "a name; with $(signs).flac"
    soundfile.write(sound, np.random.default_rng(0).standard_normal(32000) / 10, 16000)
    assert moving.kinds_of("auto") == ["gif", "mp4"]
    path = moving.write_moving(animation((ROBIN, WREN), (0, 2), 2), sound, tmp_path / "moving.mp4")
    assert int(path.read_text()) == 20 * 3 * 384 * 160
    program.write_text("#!/bin/sh\necho no such encoder >&2\nexit 3\n")
    with refuses(("other.mp4", "no such encoder"), "moving=gif", kind=Unsupported):
        moving.write_moving(animation((ROBIN, WREN), (0, 2), 2), sound, tmp_path / "other.mp4")
    assert not list(tmp_path.glob("*other.mp4*"))


def test_numbers_that_are_not_finite_are_no_sound(model, monkeypatch):
    monkeypatch.setattr(model.pipeline.unet, "forward", lambda x, *rest, **named: (x * float("nan"),))
    with refuses("step 1", kind=NotFinite):
        drawn(model, Request((ROBIN,), steps=2, guidance=1.0), animation((ROBIN, WREN), (0, 2)))
