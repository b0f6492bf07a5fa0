"""v-prediction under zero terminal SNR, end to end: schedulers, methods, exports, files of other programs."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.learning.denoiser import Denoising, DenoisingLearner
from birdsd.diffusion.methods import make_method
from birdsd.diffusion.networks import models
from birdsd.errors import Mismatch, Unsupported
from birdsd.files import read_json, write_json
from birdsd.schema import TrainConfig
from birdsd.shards.index import ShardIndex
from tests.support.errors import refuses
from tests.support.tiny import make_shards, train, train_config

CPU = torch.device("cpu")
PLAIN = Denoising()
ZERO = Denoising("v_prediction", zero_terminal_snr=True)
SETTINGS = {"prediction": "v_prediction", "zero_terminal_snr": True, "min_snr_gamma": 5.0}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> ShardIndex:
    """Shards that class pictures may be put beside."""
    return ShardIndex.open(make_shards(tmp_path_factory.mktemp("zero")))


@pytest.fixture(scope="module")
def zero_folder(index, autoencoder_folder, tmp_path_factory) -> Path:
    """The export of a model from scratch that predicts v under zero terminal SNR."""
    method = make_method(train_config("full", autoencoder=autoencoder_folder, **SETTINGS), index)
    parts = method.build(CPU, torch.float32)
    assert np.isfinite(train(method, parts, index, 3, 1e-3)).all()
    place = tmp_path_factory.mktemp("zero-run")
    assert method.preview(parts, ["a robin"], place / "preview")
    return method.export(parts, place / "export")


# -- schedulers ---------------------------------------------------------------------------------------

MEAN, DEVIATION = -3.0, 0.5  # of latents far darker than those of noise


class Ideal:
    """The best prediction there is where every latent is drawn from N(MEAN, DEVIATION^2)."""

    def __init__(self, denoising: Denoising) -> None:
        self.denoising, self.abar = denoising, denoising.alphas_cumprod()

    def __call__(self, noisy, step, encoder_hidden_states, return_dict):
        low = int(step)
        share = float(step) - low
        abar = self.abar[low] * (1 - share) + self.abar[min(low + 1, 999)] * share
        signal, sigma = abar.sqrt(), (1 - abar).sqrt()
        known = signal * DEVIATION**2 / (abar * DEVIATION**2 + 1 - abar)
        latents = MEAN + known * (noisy.double() - signal * MEAN)
        noise = (noisy.double() - signal * latents) / sigma
        is_noise = self.denoising.prediction == "epsilon"
        return ((noise if is_noise else signal * noise - sigma * latents).to(noisy.dtype),)


def sampled(name: str, denoising: Denoising, steps: int) -> torch.Tensor:
    count = 8
    return sampling.sample_latents(
        Ideal(denoising), sampling.make_scheduler(name, denoising.scheduler_config()),
        torch.zeros(count, 1, 1), None, sampling.initial_noise(0, range(count), (4, 16, 16)),
        steps=steps, guidance=1, generators=[sampling.torch_generator(0, k) for k in range(count)],
    )  # fmt: skip


@pytest.mark.parametrize("steps", [2, 25, 100])
@pytest.mark.parametrize("name", sampling.SCHEDULERS)
def test_every_scheduler_reaches_a_mean_far_from_that_of_noise(name, steps):
    """Under the schedule that was learnt: Heun's takes another by default, Karras's spacing loses its
    place."""
    made = sampled(name, ZERO, steps)
    assert made.isfinite().all() and float(made.mean()) == pytest.approx(MEAN, abs=0.02 if steps > 2 else 0.3)
    if steps > 2:
        assert float(made.std()) == pytest.approx(DEVIATION, abs=0.1)


@pytest.mark.parametrize("name", ["ddim", "dpm++", "euler", "heun", "unipc"])
def test_without_zero_terminal_snr_the_mean_stays_behind(name):
    assert float(sampled(name, PLAIN, 25).mean()) > MEAN + 0.05


def test_a_base_with_another_spacing_is_sampled_from_the_last_timestep():
    told = {**ZERO.scheduler_config(), "timestep_spacing": "leading"}
    for name in sampling.SCHEDULERS:
        made = sampling.make_scheduler(name, told)
        made.set_timesteps(10)
        assert float(made.timesteps[0]) == 999, name


@pytest.mark.parametrize(
    ("change", "named", "kind"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type=epsilon", Mismatch),
        ({"trained_betas": [0.1] * 1000}, "trained_betas", Unsupported),
        ({"num_train_timesteps": 500}, "num_train_timesteps=500", Unsupported),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler", Unsupported),
    ],
)
def test_noise_of_another_kind_is_refused_to_sample_and_to_learn(
    change, named, kind, zero_folder, index, tmp_path
):
    told = {**ZERO.scheduler_config(), "_class_name": "DDIMScheduler", **change}
    with refuses(named, kind=kind):
        sampling.make_scheduler("ddim", told)
    base = tmp_path / "base"
    base.symlink_to(zero_folder)
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in zero_folder.iterdir():
        (copy / part.name).symlink_to(part)
    (copy / "scheduler").unlink()
    write_json(copy / "scheduler" / "scheduler_config.json", told)
    for name in ("full", "lora"):
        with refuses((str(copy), named), kind=kind):
            make_method(train_config(name, init="pretrained", source=copy), index)
        make_method(train_config(name, init="pretrained", source=base), index)


# -- what it is for -------------------------------------------------------------------------------------


def learnt_means(denoising: Denoising) -> list[float]:
    """The means of what a small network samples after 200 steps on dark (-2) and bright (+2) latents."""
    settings = {
        "block_out_channels": [16, 32], "layers_per_block": 1, "attention_head_dim": [1, 1],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"], "norm_num_groups": 8,
    }  # fmt: skip
    unet = models.build_unet(settings, latent_channels=1, sample_size=(8, 8), context_width=8)
    learner = DenoisingLearner(unet, None, denoising)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(0)
    states = 4 * torch.eye(2, 8)[:, None]
    which = torch.arange(16) % 2
    for _ in range(200):
        latents = (4.0 * which - 2)[:, None, None, None] + 0.3 * torch.randn(16, 1, 8, 8, generator=draw)
        loss = learner({
            "latents": latents, "noise": torch.randn(16, 1, 8, 8, generator=draw),
            "timesteps": torch.randint(0, 1000, (16,), generator=draw), "context": states[which],
        }).mean()  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made = sampling.sample_latents(
        unet.eval(), sampling.make_scheduler("ddim", denoising.scheduler_config()), states[which], None,
        sampling.initial_noise(1, range(16), (1, 8, 8)), steps=20, guidance=1,
        generators=[sampling.torch_generator(k) for k in range(16)],
    )  # fmt: skip
    return [float(made[which == kind].mean()) for kind in (0, 1)]


def test_dark_and_bright_pictures_are_learnt_where_epsilon_cannot():
    dark, bright = learnt_means(Denoising("v_prediction", zero_terminal_snr=True, min_snr_gamma=5.0))
    assert dark == pytest.approx(-2, abs=0.5) and bright == pytest.approx(2, abs=0.5)
    dark, bright = learnt_means(Denoising(min_snr_gamma=5.0))
    assert bright - dark < 2  # of the 4 between them


@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("schedule", ["scaled_linear", "linear", "squaredcos_cap_v2"])
def test_at_a_ratio_of_zero_weight_and_gradient_are_finite(gamma, schedule):
    """min(0, gamma) / (0 + 1) is 0; without weighting the last timestep counts like any other."""
    learner = DenoisingLearner(torch.nn.Identity(), None, Denoising("v_prediction", schedule, True, gamma))
    assert torch.isfinite(learner.weight).all() and (learner.weight >= 0).all()
    assert float(learner.signal[-1]) < 1e-6 and float(learner.sigma[-1]) == pytest.approx(1)
    assert float(learner.weight[-1]) == (1.0 if gamma == 0 else pytest.approx(0, abs=1e-6))


# -- exports --------------------------------------------------------------------------------------------

# Of diffusers' own Heun the schedule would be another one (see above).
THEIRS = [name for name in sampling.SCHEDULERS if name != "heun"]


@pytest.mark.parametrize("name", THEIRS)
def test_diffusers_makes_the_same_latents_of_the_export(name, zero_folder):
    told = read_json(zero_folder / "scheduler" / "scheduler_config.json")
    assert (told["prediction_type"], told["rescale_betas_zero_snr"]) == ("v_prediction", True)
    assert told["timestep_spacing"] == "trailing"
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(zero_folder), safety_checker=None)
    kind, settings = sampling.SCHEDULERS[name]
    pipeline.scheduler = getattr(diffusers, kind).from_config(pipeline.scheduler.config, **settings)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["an American Robin singing", "a Eurasian Wren"]
    request = Request(tuple(prompts), seed=4, steps=4, scheduler=name)
    theirs = pipeline(
        prompts, num_inference_steps=4, guidance_scale=3.0, output_type="latent",
        latents=sampling.initial_noise(4, [0, 0], (4, 8, 16)),
        generator=[sampling.torch_generator(4, "sampler", 0) for _ in prompts],
    ).images  # fmt: skip
    ours = Generator(zero_folder).latents(request, prompts, [0, 0])
    assert ours.isfinite().all() and torch.allclose(ours, theirs, atol=1e-5)


def test_a_single_file_says_it_and_comes_back_with_it(zero_folder, tmp_path):
    written = write_format(Exported.open(zero_folder, "zero"), "a1111", tmp_path / "out", "fp32")
    file = written.files[0]
    assert "parameterization: v" in file.with_suffix(".yaml").read_text()
    tensors = load_file(file)
    assert {"v_pred", "ztsnr"} <= tensors.keys()
    back = import_file(Asked(file), tmp_path / "back").folder
    noise = read_json(back / "scheduler" / "scheduler_config.json")
    assert (noise["prediction_type"], noise["rescale_betas_zero_snr"]) == ("v_prediction", True)
    request = Request(("a robin",), steps=3, scheduler="euler_ancestral")
    made = [Generator(place).latents(request, request.prompts, [0]) for place in (zero_folder, back)]
    assert torch.allclose(*made, atol=1e-6)
    # A file that contradicts itself, and one of noise-predicting weights under this model's settings.
    del tensors["v_pred"]
    yaml = file.with_suffix(".yaml").read_text().replace("parameterization: v", "parameterization: eps")
    odd = tmp_path / "odd" / "odd.safetensors"
    odd.parent.mkdir()
    save_file(tensors, odd)
    odd.with_suffix(".yaml").write_text(yaml)
    asked = Asked(odd, base=str(zero_folder), codec=str(zero_folder))
    with refuses(("odd.safetensors", "rescale_betas_zero_snr", "prediction_type"), kind=Mismatch):
        import_file(asked, tmp_path / "odd-made")
    del tensors["ztsnr"]
    save_file(tensors, odd)
    noise = import_file(asked, tmp_path / "eps").folder / "scheduler" / "scheduler_config.json"
    assert read_json(noise)["prediction_type"] == "epsilon"
    assert not read_json(noise)["rescale_betas_zero_snr"]


# -- methods on such a base -----------------------------------------------------------------------------

WAYS = {
    "full": {}, "lora": {"rank": 2}, "textual_inversion": {},
    "dreambooth": {"class_samples": 2, "class_steps": 2, "rank": 2},
    "dreambooth on full": {"class_samples": 2, "class_steps": 2, "base_method": "full"},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_method_predicts_what_its_base_predicts(way, own, zero_folder, pipeline_folder, tmp_path):
    """Whatever the settings leave open. Fine-tuning took its own default, and taught a v-model epsilon."""
    name = way.split()[0]
    method = make_method(train_config(name, init="pretrained", source=zero_folder, **WAYS[way]), own)
    told = (method.denoising.prediction, method.denoising.zero_terminal_snr)
    assert told == ("v_prediction", True)
    parts = method.build(CPU, torch.float32)
    method.setup(parts, list, lambda: None)
    assert np.isfinite(train(method, parts, own, 2, 1e-3)).all()
    assert method.preview(parts, ["a robin"], tmp_path / "preview")
    model = Generator(method.export(parts, tmp_path / "export"))
    noise = model.pipeline.scheduler.config
    assert noise["prediction_type"] == "v_prediction" and noise["rescale_betas_zero_snr"] is True
    request = Request(("a robin",), steps=3)
    assert model.latents(request, request.prompts, [0]).isfinite().all()
    plain = make_method(train_config(name, init="pretrained", source=pipeline_folder, **WAYS[way]), own)
    assert (plain.denoising.prediction, plain.denoising.zero_terminal_snr) == ("epsilon", False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"prediction": "epsilon"}, ("method.prediction=epsilon", "v_prediction")),
        ({"zero_terminal_snr": False}, ("method.zero_terminal_snr=false", "has true")),
        ({"noise_schedule": "linear"}, ("method.noise_schedule=linear", "scaled_linear")),
    ],
)
def test_a_setting_that_contradicts_the_base_is_refused(way, setting, named, own, zero_folder):
    """Also where the method has no such setting, and it was typed with what is usual."""

    def asked(noise: dict) -> TrainConfig:
        own_settings = noise if way == "full" else {}
        source = {"init": "pretrained", "source": zero_folder}
        config = train_config(way.split()[0], **source, **WAYS[way], **own_settings)
        config.method.noise = {} if way == "full" else noise
        return config

    with refuses(named, kind=Mismatch):
        make_method(asked(setting), own)
    make_method(asked({"prediction": "v_prediction", "zero_terminal_snr": True}), own)  # as the base has it


def test_from_scratch_an_open_setting_is_as_usual(index, autoencoder_folder):
    method = make_method(train_config("full", autoencoder=autoencoder_folder), index)
    assert method.denoising == Denoising()
