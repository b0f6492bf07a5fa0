"""Everything a request can ask for ends in its recipes: seeds, emphasis, starts, stretches, adapters."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from birdsd.config import compose
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.conditioning import Start
from birdsd.diffusion.generation.generate import Recipe, generate, regenerate
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request, Work
from birdsd.errors import BadValue, Mismatch, NotFound, NotSet, UnknownName
from birdsd.schema import GenerateConfig
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.load import read_raven
from tests.support.errors import refuses
from tests.support.tiny import CODEC

ROBIN = "an American Robin singing"


@pytest.fixture(scope="module")
def model(pipeline_folder):
    return Generator(pipeline_folder)


@pytest.fixture
def recording(tmp_path):
    time_s = np.arange(24000) / 16000
    path = tmp_path / "tone.wav"
    write_wav(path, (0.3 * np.sin(2 * math.pi * (1000 + 900 * time_s) * time_s)).astype(np.float32), 16000)
    return path


def files(clip) -> list[bytes]:
    return [path.read_bytes() for path in (clip.picture, clip.sound, clip.table, clip.recipe)]


def test_the_names_are_those_of_the_configuration():
    config = compose("generate", ["prompt=a", "seeds=[2,1,2]", "strength=0.3", "init=x.wav", "count=3"])
    request = Request.of(config)
    assert request.seeds == (2, 1) and request.total == 6 and request.prompts == ("a",)
    assert Request.of(GenerateConfig(prompt=["a"])) == Request(("a",))


def test_clips_are_numbered_prompt_by_prompt_and_seed_by_seed():
    request = Request(("a", "b"), count=2, seeds=(5, 7), batch_size=3)
    assert [request.work(n) for n in (0, 1, 2, 4, 7)] == [
        Work("a", 5, 0), Work("a", 5, 1), Work("a", 7, 0), Work("b", 5, 0), Work("b", 7, 1)
    ]  # fmt: skip
    assert [list(request.numbers_of(b)) for b in range(request.batches)] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_a_request_survives_json_and_old_recipes_stay_as_they_were():
    plain = Request(("a",), seed=3)
    assert list(plain.to_json()) == [
        "prompts", "count", "seed", "steps", "guidance", "negative_prompt", "scheduler", "batch_size"
    ]  # fmt: skip
    full = Request(
        ("a",), seeds=(1, 2), emphasis=False, init="x.wav", strength=0.0, mask_start_s=0.0, aesthetic_steps=0
    )
    for request in (plain, full):
        assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request


def test_seeds_make_what_each_seed_makes_alone(model, tmp_path):
    settings = {"count": 2, "steps": 2, "batch_size": 1}
    both = generate(model, Request((ROBIN,), seeds=(4, 9), **settings), tmp_path / "both", progress=False)
    alone = [
        clip
        for seed in (4, 9)
        for clip in generate(
            model, Request((ROBIN,), seed=seed, **settings), tmp_path / "one", progress=False
        )
    ]
    assert [c.picture.read_bytes() for c in both] == [c.picture.read_bytes() for c in alone]
    assert [c.picture.name for c in both] == [c.picture.name for c in alone]
    assert len({c.picture.read_bytes() for c in both}) == 4
    assert [json.loads(c.recipe.read_text())["seed"] for c in both] == [4, 4, 9, 9]


def test_emphasis_counts_in_both_prompts_and_can_be_turned_off(model):
    def states(prompt, negative="", **more):
        request = Request((prompt,), negative_prompt=negative, **more)
        return model.conditioning(request, [prompt])

    plain, empty = states(ROBIN, "loud rain")
    strong, _ = states("an (American Robin:1.5) singing")
    assert not torch.allclose(plain, strong, atol=1e-3)
    _, heavier = states(ROBIN, "loud (rain:1.5)")
    assert not torch.allclose(empty, heavier, atol=1e-3)
    letters, _ = states("an (American Robin:1.5)", emphasis=False)
    encoder, tokenizer = model.pipeline.text_encoder, model.pipeline.tokenizer
    assert torch.equal(letters, sampling.encode_texts(encoder, tokenizer, ["an (American Robin:1.5)"]))


def test_species_are_found_behind_brackets(model, tmp_path):
    prompt = "an (American (Robin:1.2)) singing, not [a Eurasian] Wren"
    (clip,) = generate(model, Request((prompt,), steps=1), tmp_path, progress=False)
    assert clip.species == ("American Robin", "Eurasian Wren")
    assert model.named_in(Request((prompt,), emphasis=False), prompt) == ()


def test_names_with_brackets_are_no_emphasis(model, monkeypatch):
    monkeypatch.setitem(model.training, "species", ["Northern Flicker (Red-shafted)"])
    prompt = "a Northern Flicker (Red-shafted)"
    context, _ = model.conditioning(Request((prompt,)), [prompt])
    encoder, tokenizer = model.pipeline.text_encoder, model.pipeline.tokenizer
    assert torch.equal(context, sampling.encode_texts(encoder, tokenizer, [prompt]))
    assert model.named_in(Request((prompt,)), prompt) == ("Northern Flicker (Red-shafted)",)


def test_strength_0_gives_the_recording_back_through_the_autoencoder(model, recording):
    request = Request((ROBIN,), init=f"{recording}@0.5", strength=0.0, steps=5)
    (picture,) = model.images(request, [ROBIN], [0])
    start = Start.read(f"{recording}@0.5", CODEC)
    (through,) = sampling.decode_images(model.pipeline.vae, start.latents(model.pipeline.vae))
    assert np.array_equal(picture, through)


def test_a_recording_is_changed_and_made_again_to_the_byte(model, recording, tmp_path):
    request = Request((ROBIN,), count=2, init=str(recording), steps=5, seeds=(1, 2))
    clips = generate(model, request, tmp_path / "a", progress=False)
    recipe = json.loads(clips[2].recipe.read_text())
    assert recipe["request"]["init"] == str(recording.resolve()) and recipe["start"]
    (again,) = regenerate(model, Recipe.read(clips[2].recipe), tmp_path / "b")
    assert files(again) == files(clips[2])
    (label,) = read_raven(clips[0].table)
    assert (label.start_s, label.end_s) == (0.0, pytest.approx(CODEC.clip_s))
    write_wav(recording, np.random.default_rng(0).normal(0, 0.1, 24000).astype(np.float32), 16000)
    with refuses("tone.wav", "fingerprint", kind=Mismatch):
        regenerate(model, Recipe.read(clips[2].recipe), tmp_path / "b")
    other = generate(model, request, tmp_path / "a", keep=True, progress=False)
    assert all(clip.made for clip in other) and other[0].picture != clips[0].picture


def test_a_moved_recording_gives_the_same_clip_names(model, recording, tmp_path):
    request = Request((ROBIN,), init=str(recording), steps=2)
    (first,) = generate(model, request, tmp_path / "a", progress=False)
    moved = tmp_path / "elsewhere.wav"
    recording.rename(moved)
    (second,) = generate(model, Request((ROBIN,), init=str(moved), steps=2), tmp_path / "b", progress=False)
    assert first.picture.name == second.picture.name


def test_a_stretch_is_made_anew_and_nothing_else(model, recording, tmp_path):
    request = Request((ROBIN,), init=str(recording), steps=3, mask_start_s=0.1, mask_end_s=0.3)
    assert request.skipped_steps() == 0  # a stretch is made from nothing
    (clip,) = generate(model, request, tmp_path, progress=False)
    start = Start.read(str(recording), CODEC)
    picture, seconds = np.asarray(Image.open(clip.picture)), (np.arange(64) + 0.5) * CODEC.clip_s / 64
    outside = (seconds < 0.1) | (seconds > 0.3)
    assert np.array_equal(picture[:, outside], start.picture[:, outside])
    assert not np.array_equal(picture[:, ~outside], start.picture[:, ~outside])
    sound, rate = soundfile.read(clip.sound, dtype="float32")
    time_s = (np.arange(len(sound)) + 0.5) / rate
    kept = (time_s < 0.1) | (time_s > 0.3)
    assert np.abs(sound - start.waveform[0])[kept].max() <= 0.5 / 32768 + 1e-7
    assert np.abs(sound - start.waveform[0])[~kept].max() > 0.01
    (label,) = read_raven(clip.table)
    assert (label.label, label.start_s, label.end_s) == ("American Robin", 0.1, 0.3)
    assert json.loads(clip.recipe.read_text())["generated_s"] == [0.1, 0.3]
    (again,) = regenerate(model, Recipe.read(clip.recipe), tmp_path / "again")
    assert files(again) == files(clip)


@pytest.mark.parametrize("scheduler", ["ddim", "heun"])
def test_progress_is_told_step_by_step(model, recording, tmp_path, scheduler):
    from birdsd.diffusion.generation.generate import steps_of

    for settings in ({}, {"init": str(recording), "strength": 0.6}):
        request = Request((ROBIN,), count=3, batch_size=2, steps=5, scheduler=scheduler, **settings)
        ticks: list[int] = []
        generate(model, request, tmp_path, progress=partial(ticks.append, 1))
        assert len(ticks) == 2 * steps_of(model, request)


def test_settings_that_contradict_each_other_are_sentences(model, recording):
    for settings, kind, named in (
        ({"strength": 0.5}, NotSet, "strength=0.5"),
        ({"mask_end_s": 0.5}, NotSet, "mask_end_s=0.5"),
        ({"init": "x.wav", "strength": 2.0}, BadValue, "strength=2.0"),
        ({"init": "x.wav", "strength": 0.01, "steps": 10}, BadValue, "strength=0.01 with steps=10"),
        ({"aesthetic_behaviour": "b1111"}, UnknownName, "'b1111'"),
        ({"aesthetic_steps": -1}, BadValue, "aesthetic_steps=-1"),
    ):
        with refuses(named, kind=kind):
            Request(("a",), **settings)
    request = Request((ROBIN,), init=str(recording), mask_start_s=0.9)
    with refuses("mask_start_s=0.9 mask_end_s=0.512", kind=BadValue):
        model.images(request, [ROBIN], [0])
    with refuses("aesthetic_steps=3 aesthetic_name=None", "add=RUN", kind=NotFound):
        model.conditioning(Request((ROBIN,), aesthetic_steps=3), [ROBIN])


@pytest.fixture(scope="module")
def token(pipeline_folder, tmp_path_factory):
    """A word of two vectors that stands on the model and was taught one more species."""
    from birdsd.diffusion.adapters import write_adapter
    from birdsd.diffusion.export import TrainingSet
    from birdsd.diffusion.networks.token_vectors import write_embeddings

    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    return write_adapter(
        tmp_path_factory.mktemp("phoebe") / "export", "embedding",
        lambda folder: write_embeddings(folder, {"<phoebe>": vectors}),
        codec=CODEC.to_json(), heard=TrainingSet(("Black Phoebe",), False), about={"tokens": {"<phoebe>": 2}},
        base=str(pipeline_folder), words={"Black Phoebe": "<phoebe>"},
    )  # fmt: skip


def test_the_weight_of_a_token_is_the_weight_of_its_word(pipeline_folder, token):
    from birdsd.diffusion.adapters import Adapter

    strong = Generator(pipeline_folder, adapters=[Adapter.open(token, 1.4)])
    plain = Generator(pipeline_folder, adapters=[Adapter.open(token)])
    prompt = "a Black Phoebe in rain"
    for emphasis in (True, False):
        weighted, _ = strong.conditioning(Request((prompt,), emphasis=emphasis), [prompt])
        by_hand = "a (<phoebe> <phoebe>_1:1.4) in rain"
        expected, _ = plain.conditioning(Request((by_hand,)), [by_hand])
        assert torch.allclose(weighted, expected, atol=1e-6)
    assert plain.named_in(Request((prompt,)), prompt) == ("Black Phoebe",)
    assert strong.identity != plain.identity


def test_a_recipe_finds_what_was_added(pipeline_folder, token, tmp_path):
    from birdsd.jobs import generate as job

    def made(*settings):
        (clip,) = job.run(compose("generate", [*settings, "steps=2"])).facts["clips"]
        return clip, [open(clip[kind], "rb").read() for kind in ("picture", "sound", "table", "recipe")]

    prompt = "prompt=a Black Phoebe"
    clip, first = made(f"run={pipeline_folder}", f"add={token}:0.5", prompt, f"out={tmp_path / 'a'}")
    assert clip["species"] == ["Black Phoebe"]
    told = json.loads(first[3])
    assert told["additions"] == [{"folder": str(token), "kind": "embedding", "weight": 0.5}]
    _, again = made(f"recipe={clip['recipe']}", f"out={tmp_path / 'b'}")
    assert again == first
    other, _ = made(f"run={pipeline_folder}", f"add={token}:0.6", prompt, f"out={tmp_path / 'a'}")
    assert other["picture"] != clip["picture"]
    with refuses("export", "fingerprint", "run=", kind=Mismatch):
        made(f"recipe={clip['recipe']}", f"add={token}:0.7", f"out={tmp_path / 'b'}")
    with refuses(":nan", "add=", kind=BadValue):
        made(f"run={pipeline_folder}", f"add={token}:nan", prompt)


def test_a_recipe_of_an_addition_alone_finds_its_base(pipeline_folder, token, tmp_path):
    from birdsd.jobs import generate as job

    settings = ["prompt=a Black Phoebe", "steps=1", f"run={token.parent}", f"out={tmp_path / 'a'}"]
    (clip,) = job.run(compose("generate", [*settings, f"base={pipeline_folder}"])).facts["clips"]
    (again,) = job.run(compose("generate", [f"recipe={clip['recipe']}", f"out={tmp_path / 'b'}"])).facts[
        "clips"
    ]
    with open(clip["recipe"], "rb") as one, open(again["recipe"], "rb") as two:
        assert one.read() == two.read()


@pytest.fixture(scope="module")
def aesthetic(pipeline_folder, tmp_path_factory):
    """Two embeddings that stand on the model."""
    from safetensors.torch import save_file

    from birdsd.diffusion.adapters import write_adapter
    from birdsd.diffusion.export import TrainingSet

    draw = torch.Generator().manual_seed(1)
    names = {name: torch.randn(1, 24, generator=draw) for name in ("American Robin", "all")}

    def write(folder):
        save_file(names, str(folder / "aesthetic.safetensors"))
        projection = torch.randn(24, 32, generator=draw)
        save_file({"text_projection": projection}, str(folder / "text_projection.safetensors"))

    return write_adapter(
        tmp_path_factory.mktemp("liked") / "export", "aesthetic", write,
        codec=CODEC.to_json(), heard=TrainingSet((), False), about={}, base=str(pipeline_folder),
    )  # fmt: skip


def test_prompts_are_personalised_by_what_was_added(pipeline_folder, aesthetic):
    from birdsd.diffusion.adapters import Adapter
    from birdsd.diffusion.generation.aesthetics import Aesthetic, AestheticSettings, personalise

    plain = Generator(pipeline_folder)
    tuned = Generator(pipeline_folder, adapters=[Adapter.open(aesthetic, 0.5)])
    liked, prompts = Aesthetic.load(aesthetic), [ROBIN, "a wren"]

    def both(model, **settings):
        request = Request(tuple(prompts), aesthetic_rate=1e-2, negative_prompt="rain", **settings)
        return model.conditioning(request, prompts)

    context, negative = both(tuned, aesthetic_steps=3)
    parts = plain.pipeline
    embeddings = torch.cat([liked.embedding("American Robin"), liked.embedding("all")])
    settings = AestheticSettings(steps=3, rate=1e-2, weight=0.5)  # the adapter's weight blends
    expected = personalise(
        parts.text_encoder, parts.tokenizer, liked.text_projection, embeddings, prompts, settings
    )
    assert torch.allclose(context, expected, atol=1e-5)
    untouched, before = both(plain)
    assert torch.equal(negative, before) and not torch.allclose(context, untouched, atol=1e-3)
    assert torch.equal(both(tuned, aesthetic_steps=0)[0], untouched)
    assert not torch.allclose(both(tuned)[0], untouched, atol=1e-3)  # five steps where nothing is said
    assert not torch.allclose(both(tuned, aesthetic_behaviour="a1111")[1], before, atol=1e-3)
    named, _ = both(tuned, aesthetic_steps=3, aesthetic_name="all")
    assert not torch.allclose(named[0], context[0], atol=1e-4) and torch.allclose(named[1], context[1])
    with refuses("'wren'", kind=UnknownName):
        both(tuned, aesthetic_name="wren")
    two = Generator(pipeline_folder, adapters=[Adapter.open(aesthetic), Adapter.open(aesthetic)])
    with refuses("2 aesthetic embeddings", kind=Mismatch):
        both(two)
