"""Prompts to files: reproducible to the byte, independent of batches, safe with any text."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
from PIL import Image

from birdsd.diffusion.generation import generate as room
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.generate import Recipe, generate, regenerate
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.generator import pipeline_folder as pipeline_folder_of
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.generation.words import apply_words, species_in
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, NotSet, UnknownName
from birdsd.sound.labels.load import load_recordings, read_raven
from tests.support.errors import refuses
from tests.support.tiny import CODEC

PROMPTS = ("an American Robin singing", "a Eurasian Wren")


@pytest.fixture(scope="module")
def model(pipeline_folder):
    return Generator(pipeline_folder)


def names(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_clip_has_four_files(model, tmp_path):
    clips = generate(model, Request(PROMPTS, count=2, steps=2), tmp_path / "out", progress=False)
    assert [(clip.prompt, clip.index) for clip in clips] == [(text, k) for text in PROMPTS for k in range(2)]
    assert len(names(tmp_path / "out")) == 16
    clip = clips[0]
    assert np.array(Image.open(clip.picture)).shape == (CODEC.bands, CODEC.frames, 3)
    sound, rate = soundfile.read(clip.sound)
    assert rate == CODEC.rate_hz and len(sound) == CODEC.samples_per_clip
    (label,) = read_raven(clip.table)
    assert label.label == "American Robin" and label.end_s == pytest.approx(CODEC.clip_s)
    assert (label.low_hz, label.high_hz) == (CODEC.fmin_hz, CODEC.fmax_hz)
    recipe = json.loads(clip.recipe.read_text())
    assert recipe["generated"] is True and recipe["species"] == ["American Robin"]


@pytest.mark.parametrize("scheduler", ["ddim", "euler_ancestral"])
def test_a_recipe_makes_the_same_bytes_again(model, tmp_path, scheduler):
    request = Request(
        PROMPTS, count=3, steps=2, seed=9, scheduler=scheduler, batch_size=4, negative_prompt="rain"
    )
    clips = generate(model, request, tmp_path / "first", progress=False)
    for clip in (clips[1], clips[5]):
        (again,) = regenerate(model, Recipe.read(clip.recipe), tmp_path / "again")
        for before, after in zip(
            (clip.picture, clip.sound, clip.table, clip.recipe),
            (again.picture, again.sound, again.table, again.recipe),
            strict=True,
        ):
            assert before.name == after.name and before.read_bytes() == after.read_bytes()


@pytest.mark.parametrize("scheduler", sorted(sampling.SCHEDULERS))
def test_a_clip_does_not_depend_on_its_batch(model, scheduler):
    request = Request((PROMPTS[0],), steps=3, seed=1, scheduler=scheduler)
    together = model.latents(request, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], [0, 1, 2]).numpy()
    alone = model.latents(request, [PROMPTS[0]], [2]).numpy()
    assert np.isfinite(together).all()
    assert np.allclose(together[2], alone[0], atol=1e-4)
    assert not np.allclose(together[0], together[2], atol=1e-2)


def test_clips_of_a_prompt_do_not_depend_on_the_other_prompts(model, tmp_path):
    both = generate(
        model, Request(PROMPTS, count=2, steps=2, batch_size=1), tmp_path / "both", progress=False
    )
    one = generate(
        model, Request(PROMPTS[1:], count=2, steps=2, batch_size=1), tmp_path / "one", progress=False
    )
    assert [c.sound.read_bytes() for c in both[2:]] == [c.sound.read_bytes() for c in one]
    assert both[2].sound.name == one[0].sound.name


def test_seed_guidance_and_negative_prompt_matter(model):
    plain = Request((PROMPTS[0],), steps=2)
    base = model.latents(plain, PROMPTS[:1], [0])
    for changed in (
        {"seed": 1},
        {"guidance": 6.0},
        {"negative_prompt": "wren"},
        {"scheduler": "euler"},
        {"steps": 3},
    ):
        other = model.latents(Request((PROMPTS[0],), **{"steps": 2, **changed}), PROMPTS[:1], [0])
        assert not np.allclose(base.numpy(), other.numpy(), atol=1e-4), changed


@pytest.mark.parametrize(
    "prompt", ["../../etc/passwd", "-rf 'x' \"y\" $HOME; |", "鳥 🐦\nnew line", "a" * 500, "..."]
)
def test_hostile_prompts_stay_in_the_folder(model, tmp_path, prompt):
    out = tmp_path / "out"
    (clip,) = generate(model, Request((prompt,), steps=1), out, progress=False)
    assert sorted(p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")) == ["out"] * 5
    assert not clip.sound.name.startswith(("-", "."))
    assert json.loads(clip.recipe.read_text())["prompt"] == prompt
    assert clip.species == () and read_raven(clip.table) == []


def test_two_prompts_with_the_same_file_name_are_kept_apart(model, tmp_path):
    generate(model, Request(("a/b", "a b"), steps=1), tmp_path, progress=False)
    assert len(names(tmp_path)) == 8


def test_species_are_read_from_the_prompt():
    known = ("Robin", "American Robin", "Eurasian Wren", "Steller's Jay")
    assert species_in("a wren? no, a EURASIAN WREN and two american robins", known) == (
        "Eurasian Wren",
        "American Robin",
    )
    assert species_in("a robin beside an American Robin", known) == ("Robin", "American Robin")
    assert species_in("Steller's Jays in rain", known) == ("Steller's Jay",)
    assert species_in("Robinson's song", known) == ()


def test_species_are_found_however_their_signs_are_typed():
    known = ("Townsend's Warbler", "Black-capped Chickadee", "R\u00fcppell's Warbler")
    for text in (
        "a Townsend\u2019s Warbler",
        "townsends warblers",
        "a TOWNSEND`S_Warbler",
        "Townsend s warbler",
    ):
        assert species_in(text, known) == ("Townsend's Warbler",)
    assert species_in("black\u2011capped chickadee, Ruppell's Warbler", known) == known[1:]
    assert species_in("a Ru\u0308ppell\u2019s warbler", known) == known[2:]
    said = apply_words("an Townsend\u2019s Warbler in rain", {"Townsend's Warbler": "<tow>"})
    assert said == "a <tow> in rain"


def test_an_unknown_bird_is_no_birdless_clip(model, tmp_path):
    """An empty table would say that there is no bird, and prepare would learn that from it."""
    prompts = ("an Ivory Gull calling", "no bird", "a place where no bird sings")
    clips = generate(model, Request(prompts, steps=1), tmp_path / "out", progress=False)
    rows = [clip.table.read_text().splitlines()[1:] for clip in clips]
    assert [len(row) for row in rows] == [1, 0, 0] and "\tUnknown\t" in rows[0][0]
    found = load_recordings(tmp_path / "out")
    assert sorted(recording.labels for recording in found.recordings if not recording.unknown) == [(), ()]
    assert sum(bool(recording.unknown) for recording in found.recordings) == 1


def test_what_cannot_be_sampled_is_refused_by_name():
    with refuses("'eulr'", "'euler'", kind=UnknownName):
        Request(("a",), scheduler="eulr")
    for wrong, named in (
        ({"steps": 0}, "steps=0"), ({"steps": 5000}, "steps=5000"), ({"count": 0}, "count=0"),
        ({"guidance": float("nan")}, "guidance=nan"), ({"batch_size": -1}, "batch_size=-1"),
    ):  # fmt: skip
        with refuses(named, kind=BadValue):
            Request(("a",), **wrong)
    for prompts in ((), ("",), ("a", "  ")):
        with refuses("prompt", "prompt=", kind=NotSet):
            Request(prompts)


def test_folders_that_are_no_model_are_sentences(pipeline_folder, tmp_path):
    with refuses(str(tmp_path), kind=NotFound):
        Generator(tmp_path)
    copy = shutil.copytree(pipeline_folder, tmp_path / "copy")
    (copy / "codec.json").unlink()
    with refuses("codec.json", kind=NotFound):
        Generator(copy)
    (copy / "codec.json").write_bytes((pipeline_folder / "codec.json").read_bytes())
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    with refuses("copy", kind=Damaged):
        Generator(copy)


def test_a_recipe_of_another_model_is_refused(model, tmp_path, monkeypatch):
    (clip,) = generate(model, Request((PROMPTS[0],), steps=1), tmp_path, progress=False)
    recipe = Recipe.read(clip.recipe)
    monkeypatch.setattr(model, "identity", "another")
    with refuses("export", "fingerprint another", "run=", kind=Mismatch):
        regenerate(model, recipe, tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "named"),
    [
        ({"request": {}}, Damaged, ".json"),
        ({"number": 7}, BadValue, "clip 7"),
        ({"weights": None, "request": None}, Damaged, ".json"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(model, tmp_path, change, kind, named):
    (clip,) = generate(model, Request((PROMPTS[0],), steps=1), tmp_path, progress=False)
    clip.recipe.write_text(json.dumps({**json.loads(clip.recipe.read_text()), **change}))
    with refuses((clip.recipe.name, named), kind=kind):
        Recipe.read(clip.recipe)


def test_a_run_folder_stands_for_its_export(pipeline_folder):
    assert pipeline_folder_of(pipeline_folder.parent) == pipeline_folder


def test_the_job_generates_and_makes_a_clip_again(pipeline_folder, tmp_path):
    from birdsd.jobs import generate as job

    from birdsd.config import compose

    settings = [
        f"run={pipeline_folder}",
        f"out={tmp_path / 'a'}",
        "steps=1",
        "count=2",
        "prompt=a robin, or 'two'",
    ]
    outcome = job.run(compose("generate", settings))
    assert outcome.exit_status == 0 and len(outcome.facts["clips"]) == 2
    json.dumps(outcome.facts)
    clip = outcome.facts["clips"][1]
    again = job.run(compose("generate", [f"recipe={clip['recipe']}", f"out={tmp_path / 'b'}"]))
    with open(clip["sound"], "rb") as first, open(again.facts["clips"][0]["sound"], "rb") as second:
        assert first.read() == second.read()
    with refuses("run ", "run=NAME", kind=NotSet):
        job.run(compose("generate", ["prompt=a robin"]))


def start_generate(pipeline_folder, out, *settings):
    import os
    import subprocess
    import sys

    settings = [f"run={pipeline_folder}", f"out={out}", "machine=smoke", "batch_size=2", "count=4", *settings]
    command = [sys.executable, "-m", "birdsd.cli", "run", "generate", *settings, "--json"]
    return subprocess.Popen(
        [*command, f"prompt={json.dumps(PROMPTS)}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_parts_in_processes_of_their_own_make_the_unsplit_clips(pipeline_folder, tmp_path):
    """Two parts at once, one of them twice; the other is killed between its clips, and repeated."""
    import time

    steps, out = "steps=25", tmp_path / "parts"
    whole = start_generate(pipeline_folder, tmp_path / "whole", steps)
    assert whole.wait() == 0 and len(names(tmp_path / "whole")) == 32
    children = [start_generate(pipeline_folder, out, steps, f"part={part}") for part in ("1/2", "0/2", "0/2")]
    victim = children[0]
    while victim.poll() is None and not list(out.glob(".writing-*")):
        time.sleep(0.001)
    victim.kill()
    victim.communicate()
    for child in children[1:]:
        told, _ = child.communicate(timeout=120)
        assert child.returncode == 0 and len(json.loads(told)["clips"]) == 4
    again = start_generate(pipeline_folder, out, steps, "part=1/2")
    told, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert names(out) == names(tmp_path / "whole")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    third = start_generate(pipeline_folder, out, steps, "part=1/2")
    told, _ = third.communicate(timeout=120)
    assert json.loads(told)["nothing_to_do"] and not any(c["made"] for c in json.loads(told)["clips"])
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}


def test_only_what_is_missing_or_was_made_otherwise_is_made_again(model, tmp_path):
    request = Request(PROMPTS, count=2, steps=2, batch_size=2)
    clips = generate(model, request, tmp_path, progress=False)
    before = names(tmp_path)
    clips[1].table.unlink()
    clips[2].recipe.write_text(clips[2].recipe.read_text().replace('"torch": "', '"torch": "0'))
    clips[3].recipe.write_text("{")
    again = generate(model, request, tmp_path, keep=True, progress=False)
    assert [clip.made for clip in again] == [False, True, True, True]
    assert names(tmp_path) == before
    assert [clip.made for clip in generate(model, request, tmp_path, keep=True, progress=False)] == [
        False
    ] * 4
    assert all(clip.made for clip in generate(model, request, tmp_path, progress=False))


def test_shares_keep_whole_batches_together(model, tmp_path):
    from birdsd.runs.share import ArrayShare

    request = Request(PROMPTS, count=3, steps=1, batch_size=4)
    shares = [room.share_out(request, ArrayShare(index, 3).share) for index in range(3)]
    assert shares == [[0, 1, 2, 3], [4, 5], []]
    assert generate(model, request, tmp_path / "none", only=[], progress=False) == []
    assert not (tmp_path / "none").exists()


def test_a_clip_beyond_full_scale_is_turned_down_and_its_recipe_tells(model, tmp_path, monkeypatch):
    loud = dataclasses.replace(model.codec, ceiling_db=model.codec.ceiling_db + 60)
    monkeypatch.setattr(model, "codec", loud)
    request = Request(PROMPTS, steps=2)
    clips = generate(model, request, tmp_path / "a", progress=False)
    for clip in clips:
        made = loud.decode(loud.from_rgb(np.array(Image.open(clip.picture))))
        assert np.abs(made).max() > 1.5, "the case has to be loud enough to mean anything"
        heard, _ = soundfile.read(clip.sound, dtype="float32")
        told = json.loads(clip.recipe.read_text())
        assert told["gain_db"] == clip.gain_db < -3 and clip.to_json()["gain_db"] == clip.gain_db
        # Nothing was cut: the gain undone, it is what was made, loudest samples included.
        step = 10 ** (-clip.gain_db / 20) / 32768
        assert np.abs(heard * 10 ** (-clip.gain_db / 20) - made[0]).max() <= step
    kept = generate(model, request, tmp_path / "a", keep=True, progress=False)
    assert [(c.made, c.gain_db) for c in kept] == [(False, c.gain_db) for c in clips]
    (again,) = regenerate(model, Recipe.read(clips[1].recipe), tmp_path / "b")
    assert again.sound.read_bytes() == clips[1].sound.read_bytes()
    assert again.recipe.read_bytes() == clips[1].recipe.read_bytes()


def test_a_clip_of_the_time_when_sounds_were_cut_off_is_made_again(model, tmp_path):
    (clip,) = generate(model, Request(PROMPTS[:1], steps=1), tmp_path, progress=False)
    told = json.loads(clip.recipe.read_text())
    assert told.pop("gain_db") == 0.0
    clip.recipe.write_text(json.dumps(told))
    (again,) = generate(model, Request(PROMPTS[:1], steps=1), tmp_path, keep=True, progress=False)
    assert again.made and "gain_db" in json.loads(clip.recipe.read_text())


def test_the_command_says_that_clips_were_turned_down(pipeline_folder, tmp_path):
    from birdsd.jobs import generate as job

    from birdsd.config import compose

    folder = shutil.copytree(pipeline_folder, tmp_path / "model")
    codec = json.loads((folder / "codec.json").read_text())
    said = []
    for ceiling_db in (codec["ceiling_db"] + 60, codec["ceiling_db"] - 40):
        (folder / "codec.json").write_text(json.dumps({**codec, "ceiling_db": ceiling_db}))
        settings = [
            f"run={folder}",
            "steps=1",
            "count=2",
            "prompt=a robin",
            f"out={tmp_path / str(ceiling_db)}",
        ]
        said.append(job.run(compose("generate", settings)).text)
    assert "2 clips " in said[0] and "turned down" in said[0]
    assert "turned down" not in said[1]
