"""Targets, loss weights and noise schedules, against the definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from birdsd.diffusion.learning.denoiser import STEPS, Denoising, DenoisingLearner, min_snr_weight
from birdsd.errors import BadValue, Mismatch, UnknownName
from tests.support.errors import refuses


class Oracle(nn.Module):
    """A network that knows x_0 up to an error of the same size everywhere."""

    def __init__(self, denoising: Denoising, latents: torch.Tensor, error: float) -> None:
        super().__init__()
        self.denoising, self.latents, self.error = denoising, latents, error
        self.abar = denoising.alphas_cumprod().float()

    def forward(self, noisy, steps, encoder_hidden_states, return_dict):
        signal, sigma = (v[steps][:, None, None, None] for v in (self.abar.sqrt(), (1 - self.abar).sqrt()))
        guess = self.latents + self.error
        noise = (noisy - signal * guess) / sigma
        return (noise if self.denoising.prediction == "epsilon" else signal * noise - sigma * guess,)


def losses(prediction: str, gamma: float, error: float, steps: list[int]) -> torch.Tensor:
    torch.manual_seed(0)
    latents, noise = torch.randn(2, len(steps), 4, 8, 8, dtype=torch.float64).float()
    denoising = Denoising(prediction, min_snr_gamma=gamma)
    learner = DenoisingLearner(Oracle(denoising, latents, error), None, denoising)
    batch = {"latents": latents, "noise": noise, "timesteps": torch.tensor(steps), "context": torch.zeros(1)}
    return learner(batch)


STEPS_TESTED = [20, 200, 500, 800]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_perfect_network_has_no_loss(prediction):
    assert losses(prediction, 5.0, 0.0, STEPS_TESTED).max() < 1e-6


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_the_error_in_x0_by_the_capped_ratio(prediction):
    abar = Denoising().alphas_cumprod()[STEPS_TESTED]
    expected = (abar / (1 - abar)).clamp(max=5.0) * 0.01
    assert losses(prediction, 5.0, 0.1, STEPS_TESTED) == pytest.approx(expected, rel=2e-3)


def test_without_min_snr_every_timestep_counts_alike():
    assert min_snr_weight(torch.tensor([0.1, 10.0]), 0.0, "epsilon").tolist() == [1, 1]
    abar = Denoising().alphas_cumprod()[STEPS_TESTED]
    assert losses("epsilon", 0.0, 0.1, STEPS_TESTED) == pytest.approx(abar / (1 - abar) * 0.01, rel=2e-3)


def test_the_loss_of_a_sample_does_not_depend_on_its_neighbours():
    with_one, with_another = (losses("epsilon", 5.0, 0.1, [20, step])[0] for step in (200, 900))
    assert float(with_one) == pytest.approx(float(with_another), rel=1e-3)


def test_zero_terminal_snr_ends_in_pure_noise_and_weights_stay_finite():
    denoising = Denoising("v_prediction", zero_terminal_snr=True, min_snr_gamma=5.0)
    abar = denoising.alphas_cumprod()
    assert len(abar) == STEPS and abar[-1] < 1e-6 < 1e-3 < Denoising().alphas_cumprod()[-1]
    learner = DenoisingLearner(nn.Identity(), None, denoising)
    assert torch.isfinite(learner.weight).all()


def test_what_cannot_work_is_refused_by_name():
    with refuses("method.prediction=epsilon", "method.prediction=v_prediction", kind=Mismatch):
        Denoising("epsilon", zero_terminal_snr=True)
    with refuses("'epsilom'", "'epsilon'", kind=UnknownName):
        Denoising("epsilom")
    with refuses("'cosine'", "squaredcos_cap_v2", kind=UnknownName):
        Denoising(noise_schedule="cosine")
    with refuses("min_snr_gamma", kind=BadValue):
        Denoising(min_snr_gamma=-1)
