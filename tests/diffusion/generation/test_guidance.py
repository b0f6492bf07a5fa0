"""Guidance: in an interval, rescaled, away from a weaker model; sampling as a model recommends."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.config import compose
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.generate import Recipe, generate, regenerate
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.guidance import Guidance, Predictor, Weaker, rescaled
from birdsd.diffusion.generation.recommended import SETTINGS, USUAL, checked_sampling, sampling_of
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.methods import make_method
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, NotSet, UnknownName
from birdsd.files import read_json, write_json
from birdsd.runs.models.loading import load_model, recommended_sampling
from birdsd.runs.models.weaker import split_position
from birdsd.training import loop
from tests.support.errors import refuses
from tests.support.tiny import train, train_config

PROMPTS = ("an American Robin singing", "a Eurasian Wren")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(index, autoencoder_folder, tmp_path_factory) -> Path:
    """A finished run of 48 samples that kept its checkpoints at 16, 32 and 48."""
    config = train_config("full", autoencoder=autoencoder_folder, min_snr_gamma=5.0)
    told = {"learning_rate": 3e-3, "global_batch": 4, "total_samples": 48, "warmup_samples": 0,
            "ema_decay": 0.5}  # fmt: skip
    for name, value in told.items():
        setattr(config.optim, name, value)
    config.machine.device, config.machine.micro_batch, config.machine.threads = "cpu", 4, 1
    config.machine.cache_latents = False
    config.save.every_samples, config.save.keep, config.save.validate_every_samples = 16, 9, 0
    folder = tmp_path_factory.mktemp("weaker") / "runs" / "song-1"
    loop.train(config, make_method(config, index), index, folder, lambda: False)
    return folder


@pytest.fixture(scope="module")
def model(run) -> Generator:
    return load_model(asked(run))


def asked(run: Path, *settings: str):
    return compose("generate", [f"run={run}", "machine=smoke", "prompt=[a robin, a wren]", *settings])


# -- the interval, and how often a network is asked -----------------------------------------------------


class Counting:
    """A network that gives its input times a number, and notes how many images it saw at which timestep."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor, self.seen = factor, []

    def __call__(self, entering, step, encoder_hidden_states, return_dict):
        self.seen.append((int(step), len(entering)))
        level = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        return (self.factor * entering * level,)


class Plain:
    """A scheduler that scales nothing."""

    def scale_model_input(self, latents, step):
        return latents


def test_outside_the_interval_the_network_is_asked_once_and_unguided():
    unet, weak = Counting(), Counting(0.5)
    steps = [999, 749, 499, 249, 0]
    led = Guidance(3.0, start=0.25, end=0.76)
    assert led.active(steps) == [False, True, True, True, False]
    states, empty = torch.ones(2, 1, 4), torch.zeros(2, 1, 4)
    predict = Predictor(unet, states, empty, led, steps, Weaker(weak, 2 * states, 1.5))
    latents = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    made = [predict(Plain(), latents, number, torch.tensor(step)) for number, step in enumerate(steps)]
    assert unet.seen == [(999, 2), (749, 4), (499, 4), (249, 4), (0, 2)]
    assert weak.seen == [(749, 2), (499, 2), (249, 2)]
    for number in (0, 4):
        assert torch.equal(made[number], latents)
    # Within it: 0 + 3 (x - 0), and on by (1.5 - 1) (x - 0.5 * 2 x).
    assert torch.allclose(made[1], 3 * latents + 0.5 * (latents - latents), atol=1e-6)
    stronger = Predictor(unet, states, empty, led, steps, Weaker(Counting(0.0), states, 1.5))
    assert torch.allclose(stronger(Plain(), latents, 1, torch.tensor(749)), 3.5 * latents, atol=1e-6)


def test_ends_are_inside_and_all_of_it_is_every_step():
    assert Guidance(2.0).active([999, 500.5, 0]) == [True] * 3
    assert Guidance(2.0, 0.0, 0.5).active([999, 499.5, 499]) == [True, True, False]


def test_rescaling_is_that_of_diffusers_image_by_image():
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    draw = torch.Generator().manual_seed(1)
    led, plain = 5 * torch.randn(3, 4, 8, 8, generator=draw), torch.randn(3, 4, 8, 8, generator=draw)
    for share in (0.0, 0.3, 0.7, 1.0):
        assert torch.allclose(rescaled(led, plain, share), rescale_noise_cfg(led, plain, share), atol=1e-6)
    assert torch.equal(rescaled(led, plain, 0.7)[1:2], rescaled(led[1:2], plain[1:2], 0.7))
    assert rescaled(led, plain, 1.0)[0].std() == pytest.approx(float(plain[0].std()), rel=1e-4)


def test_diffusers_makes_the_same_with_rescaled_guidance(run, model):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(str(run / "export"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    noise = sampling.initial_noise(2, [0, 0], (4, 8, 16))
    theirs = pipeline(
        list(PROMPTS), num_inference_steps=4, guidance_scale=6.0, guidance_rescale=0.7, latents=noise,
        output_type="latent",
    ).images  # fmt: skip
    ours = model.latents(
        Request(PROMPTS, seed=2, steps=4, guidance=6.0, guidance_rescale=0.7), PROMPTS, [0, 0]
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


# -- every new setting: reproducible, independent of the batch, of consequence ---------------------------

LED = {
    "interval": ["guidance_start=0.2", "guidance_end=0.7"],
    "rescale": ["guidance=6", "guidance_rescale=0.7"],
    "weaker checkpoint": ["guide=@16"],
    "weaker alone": ["guide=@16", "guidance=1", "guide_weight=3"],
    "all of it": ["guide=@16", "guide_weight=1.5", "guidance_start=0.1", "guidance_end=0.9",
                  "guidance_rescale=0.5", "scheduler=euler_ancestral"],
    "karras": ["scheduler=dpm++karras"],
}  # fmt: skip


@pytest.mark.parametrize("way", LED)
def test_a_clip_is_reproduced_and_does_not_depend_on_its_batch(way, run, model, tmp_path):
    config = asked(run, *LED[way], "steps=6", "count=2", "batch_size=3", "seed=5")
    led = load_model(config)
    request = Request.of(config, recommended_sampling(config))
    clips = generate(led, request, tmp_path / "first", progress=False)
    (again,) = regenerate(led, Recipe.read(clips[1].recipe), tmp_path / "again")
    for kind in ("picture", "sound", "table", "recipe"):
        first, second = getattr(clips[1], kind), getattr(again, kind)
        assert first.name == second.name and first.read_bytes() == second.read_bytes()
    one = led.latents(request, [PROMPTS[1]], [1])
    three = led.latents(request, [PROMPTS[0], PROMPTS[0], PROMPTS[1]], [0, 1, 1])
    assert torch.allclose(one[0], three[2], atol=1e-4)
    plain = Request.of(asked(run, "steps=6", "seed=5"))
    without = model.latents(replace(plain, guidance=request.guidance), [PROMPTS[1]], [1])
    assert not torch.allclose(one, without, atol=1e-3), "it changes nothing"
    names = {clip.sound.name for clip in clips}
    others = generate(model, replace(plain, count=2, batch_size=3), tmp_path / "plain", progress=False)
    assert not names & {clip.sound.name for clip in others}, "two requests share the names of their files"


def test_the_job_makes_a_led_clip_again_from_its_recipe_alone(run, tmp_path):
    from birdsd.jobs import generate as job

    settings = [f"run={run}", "machine=smoke", "prompt=a robin", "steps=3", "guide=@32"]
    made = job.run(compose("generate", [*settings, f"out={tmp_path / 'a'}"])).facts["clips"][0]
    told = read_json(Path(made["recipe"]))
    assert told["guide"]["model"].endswith("song-1@32") and told["request"]["guide_weight"] == 2.0
    recipe = [f"recipe={made['recipe']}", "machine=smoke", f"out={tmp_path / 'b'}"]
    again = job.run(compose("generate", recipe)).facts["clips"][0]
    assert Path(again["sound"]).read_bytes() == Path(made["sound"]).read_bytes()
    with refuses("a_robin-02d71c4d-000.json", "guide=", kind=Mismatch):
        job.run(compose("generate", [*recipe, "guide=@16"]))
    assert job.run(compose("generate", [*settings, f"out={tmp_path / 'a'}"])).facts["nothing_to_do"]


# -- the weaker model ----------------------------------------------------------------------------------


def test_the_weaker_model_has_the_weights_of_its_checkpoint(run, model):
    """The averages where there are any, as an export has them."""
    from birdsd.training.checkpoints.reading import checkpoint_at, positions

    assert positions(run) == [16, 32, 48]
    held = [load_model(asked(run, f"guide=@{position}")).weaker for position in (16, 48)]
    checkpoint = checkpoint_at(run, 16)
    for name, tensor in held[0].model.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, checkpoint.tensor("ema", f"unet.{name}"))
    for name, tensor in held[1].model.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, model.pipeline.unet.state_dict()[name])
    assert held[0].identity != held[1].identity
    assert held[0].model.pipeline.vae is not held[1].model.pipeline.vae


def test_another_run_is_a_guide_with_a_text_encoder_of_its_own(run, index, autoencoder_folder, tmp_path):
    method = make_method(train_config("full", autoencoder=autoencoder_folder), index)
    parts = method.build(CPU, torch.float32)
    train(method, parts, index, 1, 1e-3)
    other = method.export(parts, tmp_path / "other" / "export").parent
    config = asked(run, f"guide={other}", "steps=3")
    led = load_model(config)
    assert led.weaker.identity == Generator(other).identity
    made = led.latents(Request.of(config), [PROMPTS[0]], [0])
    assert made.isfinite().all()


def test_guides_that_do_not_fit_are_refused_by_name(
    run, pipeline_folder, index, autoencoder_folder, tmp_path
):
    for guide, kind, named, offers in (
        ("@17", NotFound, "at 17", ("16, 32, 48", "save.keep")),
        (str(run), Mismatch, f"guide={run}", ("guide=@POSITION",)),
        ("nowhere", UnknownName, "'nowhere'", ()),
        ("nowhere@16", UnknownName, "'nowhere'", ()),
        ("@", UnknownName, "'@'", ()),
    ):
        with refuses(named, *offers, kind=kind):
            load_model(asked(run, f"guide={guide}"))
    velocity = train_config("full", autoencoder=autoencoder_folder, prediction="v_prediction")
    method = make_method(velocity, index)
    folder = method.export(method.build(CPU, torch.float32), tmp_path / "velocity" / "export")
    with refuses("prediction_type=v_prediction", kind=Mismatch):
        load_model(asked(run, f"guide={folder}"))
    other = make_method(train_config("autoencoder", crop_frames=32), index)
    vae = other.export(other.build(CPU, torch.float32), tmp_path / "vae" / "export")
    method = make_method(train_config("full", autoencoder=vae), index)
    folder = method.export(method.build(CPU, torch.float32), tmp_path / "latents" / "export")
    with refuses("latents/export", "guide=@POSITION", kind=Mismatch):
        load_model(asked(run, f"guide={folder}"))
    with refuses("guide_weight=2", kind=NotSet):
        Request.of(asked(run, "guide_weight=2"))
    with refuses("guide_weight=2", "guide=RUN", kind=NotFound):
        Generator(pipeline_folder).latents(Request(("a",), steps=1, guide_weight=2.0), ["a"], [0])


def test_a_damaged_checkpoint_is_no_guide(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "song-1")
    file = next((copy / "checkpoints" / f"{16:012d}").glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(bytes(data))
    with refuses("0016", kind=Damaged):
        load_model(asked(copy, "guide=@16"))
    assert load_model(asked(copy, "guide=@32")).weaker is not None


def test_what_an_addition_learnt_is_no_weaker_model(run, index, tmp_path):
    config = train_config("lora", init="pretrained", source=run, rank=2, min_snr_gamma=5.0)
    for name, value in {"global_batch": 4, "total_samples": 8, "warmup_samples": 0}.items():
        setattr(config.optim, name, value)
    config.machine.device, config.machine.cache_latents = "cpu", False
    config.save.every_samples, config.save.validate_every_samples = 4, 0
    folder = tmp_path / "lora-1"
    loop.train(config, make_method(config, index), index, folder, lambda: False)
    with refuses(("guide=@4", "lora"), "method=full", kind=Mismatch):
        load_model(asked(folder, "guide=@4"))
    led = load_model(asked(folder, f"guide={run}"))  # a LoRA away from the model that it stands on
    assert led.latents(Request.of(asked(folder, f"guide={run}", "steps=2")), ["a"], [0]).isfinite().all()


def test_positions_are_told_from_names():
    assert split_position("runs/a@2000") == ("runs/a", 2000)
    assert split_position("@2000") == ("", 2000)
    assert split_position("runs/a@home") == ("runs/a@home", None)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"guidance_start": -0.1}, "guidance_start=-0.1"),
        ({"guidance_end": 1.5}, "guidance_end=1.5"),
        ({"guidance_start": 0.6, "guidance_end": 0.6}, "guidance_start=0.6 guidance_end=0.6"),
        ({"guidance_start": float("nan")}, "guidance_start=nan"),
        ({"guidance_rescale": 1.1}, "guidance_rescale=1.1"),
        ({"guidance_rescale": float("nan")}, "guidance_rescale=nan"),
        ({"guide_weight": 0.5}, "guide_weight=0.5"),
        ({"guide_weight": float("inf")}, "guide_weight=inf"),
        ({"guidance": -1.0}, "guidance=-1"),
        ({"guidance": float("nan")}, "guidance=nan"),
    ],
)
def test_what_leads_nowhere_is_refused_by_name(settings, named):
    with refuses(named, kind=BadValue):
        Request(("a",), **settings)


# -- as the model recommends ----------------------------------------------------------------------------

ADVICE = {"scheduler": "euler_ancestral", "steps": 7, "guidance": 2}


@pytest.fixture(scope="module")
def advised(index, autoencoder_folder, tmp_path_factory) -> Path:
    config = train_config("full", autoencoder=autoencoder_folder)
    config.model.recommended = {"sampling": ADVICE}
    method = make_method(config, index)
    return method.export(
        method.build(CPU, torch.float32), tmp_path_factory.mktemp("advised") / "runs" / "a" / "export"
    )


def test_open_settings_are_as_the_model_recommends_and_the_recipe_stores_them(advised, run, tmp_path):
    from birdsd.jobs import generate as job

    assert sampling_of(advised) == {"scheduler": "euler_ancestral", "steps": 7, "guidance": 2.0}
    assert Generator(advised).sampling == sampling_of(advised.parent) == sampling_of(advised)
    assert recommended_sampling(asked(run)) == {} and Request.of(asked(run)) == Request(("a robin", "a wren"))
    settings = [f"run={advised}", "machine=smoke", "prompt=a robin", f"out={tmp_path}"]
    told = []
    for more in ([], ["steps=2", "scheduler=ddim"]):
        (clip,) = job.run(compose("generate", [*settings, *more])).facts["clips"]
        told.append(read_json(Path(clip["recipe"]))["request"])
    assert [(one["scheduler"], one["steps"], one["guidance"]) for one in told] == [
        ("euler_ancestral", 7, 2.0), ("ddim", 2, 2.0)
    ]  # fmt: skip
    said = [*settings, "scheduler=euler_ancestral", "steps=7", "guidance=2"]
    assert job.run(compose("generate", said)).facts["nothing_to_do"], "null and the same value make one clip"


def test_an_addition_is_sampled_as_its_base_unless_it_says_otherwise(advised, index, tmp_path):
    places = []
    for number, own in enumerate(({}, {"sampling": {"steps": 3}})):
        config = train_config("lora", init="pretrained", source=advised, rank=2)
        config.model.recommended = own
        method = make_method(config, index)
        places.append(method.export(method.build(CPU, torch.float32), tmp_path / str(number)))
    assert sampling_of(places[0]) == sampling_of(advised) and sampling_of(places[1]) == {"steps": 3}
    assert [Generator(place).sampling for place in places] == [sampling_of(place) for place in places]
    from birdsd.diffusion.formats.companions import Exported
    from birdsd.diffusion.formats.exporter import merge

    merged = [merge(Exported.open(place, "x"), tmp_path / f"merged{n}") for n, place in enumerate(places)]
    assert [sampling_of(place) for place in merged] == [sampling_of(place) for place in places]


def test_a_grid_and_its_commands_follow_the_model(advised, tmp_path):
    from birdsd.studies.grid import Grid, command, fixed_settings

    config = compose("grid", [f"run={advised}", "prompt=a robin", "x=guidance=2,4"])
    grid = Grid.of(config)
    assert [(cell.request.steps, cell.request.guidance) for cell in grid.cells] == [(7, 2.0), (7, 4.0)]
    first, second = (command(cell.settings) for cell in grid.cells)
    assert "guidance" not in first and "steps" not in second and "guidance=4.0" in second
    told = fixed_settings(config, grid)
    assert (told["steps"], told["scheduler"]) == ("7", "euler_ancestral")


def test_a_grid_goes_over_guides(run, tmp_path):
    from birdsd.jobs import grid as job

    from birdsd.studies.grid import Grid, command

    settings = [f"run={run}", "machine=smoke", "prompt=a robin", "steps=2", f"out={tmp_path}"]
    config = compose("grid", [*settings, "x=guide=none,@16,@32", "y=guidance_end=0.5,1"])
    cells = Grid.of(config).cells
    assert len({cell.model_key for cell in cells}) == 3
    assert f"guide={run.resolve()}@16" in command(cells[1].settings)
    outcome = job.run(config)
    sounds = {Path(cell["clips"][0]["sound"]).read_bytes() for cell in outcome.facts["cells"]}
    assert len(sounds) == 6 and "song-1@16" in Path(outcome.facts["page"]).read_text()


@pytest.mark.parametrize(
    ("advice", "named", "kind"),
    [
        ({"steps": 0}, "model.recommended.sampling: steps=0", BadValue),
        ({"scheduler": "eulr"}, "'eulr'", UnknownName),
        ({"step": 3}, "'step'", UnknownName),
        ({"steps": "many"}, "steps='many'", BadValue),
        ({"steps": True}, "steps=True", BadValue),
        ({"steps": 7.5}, "steps=7.5", BadValue),
        ({"guidance_start": 0.9, "guidance_end": 0.1}, "guidance_start=0.9", BadValue),
        (["ddim"], "['ddim']", BadValue),
    ],
)
def test_advice_that_cannot_be_followed_ends_a_training_before_it_begins(
    advice, named, index, autoencoder_folder, kind
):
    config = train_config("full", autoencoder=autoencoder_folder)
    config.model.recommended = {"sampling": advice}
    with refuses(("model.recommended.sampling", named), kind=kind):
        make_method(config, index)


def test_advice_in_a_folder_from_elsewhere_is_checked_with_its_name(advised, tmp_path):
    copy = shutil.copytree(advised, tmp_path / "copy")
    told = read_json(copy / "training.json")
    write_json(copy / "training.json", {**told, "sampling": {"steps": -3}})
    with refuses(("training.json", "steps=-3"), kind=BadValue):
        Generator(copy)


def test_the_page_and_the_plan_begin_with_what_the_model_recommends(advised, tmp_path):
    from birdsd.cli.plan import plan
    from birdsd.ui.session import FormValues, UiSession

    for settings, expected in (([], (7, 2.0, "euler_ancestral")), (["steps=9"], (9, 2.0, "euler_ancestral"))):
        config = asked(advised, *settings, f"out={tmp_path}")
        session = UiSession(config, Generator(advised), tmp_path)
        assert tuple(session.usual(name) for name in ("steps", "guidance", "scheduler")) == expected
        request = session.request(FormValues("a wren", session.usual("guidance"), session.usual("steps"), 1))
        assert (request.steps, request.guidance, request.scheduler) == expected
    facts, text = plan("generate", [f"run={advised}", "machine=smoke"])
    assert (facts["sampling"]["scheduler"], facts["sampling"]["network_passes"]) == ("euler_ancestral", 14)
    line = next(one for one in text.splitlines() if "euler_ancestral" in one)
    assert re.findall(r"\d+", line) == ["7", "2", "14"], "steps, guidance, passes of the network"
    half = ["steps=10", "scheduler=ddim", "guidance_end=0.5"]
    facts, _ = plan("generate", [f"run={advised}", "machine=smoke", *half])
    assert facts["sampling"]["network_passes"] == 15
    before = facts["device_bytes"]["none"]
    facts, _ = plan("generate", [f"run={advised}", "machine=smoke", *half, "guide=@16"])
    assert facts["sampling"]["network_passes"] == 20 and facts["device_bytes"]["none"] > before


def test_the_demo_passes_on_what_it_is_asked_and_nothing_else():
    from birdsd.studies.demo_stages import sampling_settings

    assert sampling_settings(compose("demo")) == []
    said = sampling_settings(
        compose("demo", ["steps=60", "scheduler=euler_ancestral", "guide=@500", "guidance_end=1"])
    )
    given = compose("generate", said)
    assert (given.steps, given.scheduler, given.guide) == (60, "euler_ancestral", "@500")
    assert given.guidance is None and given.guidance_end == 1.0


def test_the_usual_is_what_it_was():
    assert {name: USUAL[name] for name in ("scheduler", "steps", "guidance")} == {
        "scheduler": "ddim", "steps": 25, "guidance": 3.0
    }  # fmt: skip
    assert set(USUAL) == set(SETTINGS) and checked_sampling(USUAL, "x") == USUAL
    assert set(Request(("a",)).to_json()) == {
        "prompts", "count", "seed", "steps", "guidance", "negative_prompt", "scheduler", "batch_size"
    }  # fmt: skip
    json.dumps(Request(("a",), guidance_start=0.2, guide_weight=2.0).to_json())
    assert np.isclose(Request(("a",)).led().scale, 3.0)
