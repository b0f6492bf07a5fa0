"""Noise, targets and loss weights of a denoising model, and the module that learns from them.

x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise (Ho et al. 2020); v = sqrt(abar_t) noise - sqrt(1 -
abar_t) x_0 (Salimans and Ho 2022); min-SNR weights (Hang et al. 2023); zero terminal SNR (Lin et al.
2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from birdsd.diffusion.learning.base import Learner
from birdsd.errors import BadValue, Mismatch, unknown_name

PREDICTIONS = ("epsilon", "v_prediction")
NOISE_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")
STEPS = 1000


@dataclass(frozen=True)
class Denoising:
    """What the network predicts, under which noise, and how each timestep counts."""

    prediction: str = "epsilon"
    noise_schedule: str = "scaled_linear"
    zero_terminal_snr: bool = False
    min_snr_gamma: float = 0.0
    beta_start: float = 0.00085
    beta_end: float = 0.012

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise unknown_name("method.prediction", self.prediction, PREDICTIONS)
        if self.noise_schedule not in NOISE_SCHEDULES:
            raise unknown_name("method.noise_schedule", self.noise_schedule, NOISE_SCHEDULES)
        if self.min_snr_gamma < 0:
            raise BadValue(
                f"method.min_snr_gamma={self.min_snr_gamma} is negative",
                "gamma caps the signal-to-noise ratio that a timestep is weighted with",
                "set it to 5, or to 0 for no weighting",
            )
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise Mismatch(
                "method.zero_terminal_snr=true with method.prediction=epsilon",
                "at a signal-to-noise ratio of zero the noise is the input itself, and teaches nothing",
                "set method.prediction=v_prediction",
            )

    def scheduler_config(self) -> dict[str, Any]:
        """The same schedule in the words of diffusers; `trailing` spacing starts sampling at the last
        timestep.
        """
        return {
            "num_train_timesteps": STEPS,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "beta_schedule": self.noise_schedule,
            "prediction_type": self.prediction,
            "rescale_betas_zero_snr": self.zero_terminal_snr,
            "timestep_spacing": "trailing",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        }

    def alphas_cumprod(self) -> Tensor:
        """abar, float64 [STEPS]: taken from diffusers' own scheduler, so that sampling agrees to the bit."""
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler(**self.scheduler_config())
        abar: Tensor = scheduler.alphas_cumprod
        return abar.double()


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """The loss weight at each signal-to-noise ratio, same shape as `snr`; 1 everywhere when gamma is 0.

    The weight of the error in x_0 is min(snr, gamma); an error in the noise is snr times larger in x_0,
    one in v snr + 1 times, hence the two quotients.
    """
    if gamma <= 0:
        return torch.ones_like(snr)
    capped = snr.clamp(max=gamma)
    return capped / (snr if prediction == "epsilon" else snr + 1)


class DenoisingLearner(Learner):
    """A UNet, and the text encoder where it learns too, with the loss of every sample.

    The batch holds `latents` and `noise` [B, C, h, w], `timesteps` int64 [B], and either `input_ids`
    int64 [B, n] (the text encoder learns) or `context` [B, n, width] (it does not).
    """

    signal: Tensor
    sigma: Tensor
    weight: Tensor

    def __init__(self, unet: nn.Module, text_encoder: nn.Module | None, denoising: Denoising) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder
        self.denoising = denoising
        abar = denoising.alphas_cumprod()
        weight = min_snr_weight(abar / (1 - abar), denoising.min_snr_gamma, denoising.prediction)
        self.register_buffer("signal", abar.sqrt().float(), persistent=False)
        self.register_buffer("sigma", (1 - abar).sqrt().float(), persistent=False)
        self.register_buffer("weight", weight.float(), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """float32 [B]: mean squared error over the latents of each sample, times its timestep's weight."""
        latents, noise, steps = batch["latents"].float(), batch["noise"].float(), batch["timesteps"]
        if self.text_encoder is not None:
            context = self.text_encoder(batch["input_ids"])[0]
        else:
            context = batch["context"]
        signal, sigma = (values[steps][:, None, None, None] for values in (self.signal, self.sigma))
        noisy = signal * latents + sigma * noise
        target = noise if self.denoising.prediction == "epsilon" else signal * noise - sigma * latents
        predicted = self.unet(noisy, steps, encoder_hidden_states=context, return_dict=False)[0]
        error = (predicted.float() - target).square().flatten(1).mean(1)
        return error * self.weight[steps]
