"""method=lora: small low-rank updates beside frozen weights (Hu et al. 2021, arXiv 2106.09685).

W x + (alpha / rank) B A x, where A is drawn from a normal distribution and B begins at zero. The export
is the update alone, in the names that diffusers reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from birdsd.diffusion import export
from birdsd.diffusion.adapters import LORA_FILE, write_adapter
from birdsd.diffusion.learning.base import Modules
from birdsd.diffusion.learning.denoiser import DenoisingLearner
from birdsd.diffusion.learning.denoising import DenoisingMethod, Networks
from birdsd.diffusion.lora_targets import TARGETS, TEXT_ENCODER, TEXT_LAYERS
from birdsd.diffusion.method_configs import LoraConfig
from birdsd.diffusion.networks import models
from birdsd.errors import BadValue, NotFound, unknown_name
from birdsd.method_facts import settings_of

if TYPE_CHECKING:
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex


class LoraMethod(DenoisingMethod):
    """Low-rank updates of the UNet, and of the text encoder if it is among the targets."""

    def __init__(self, config: TrainConfig, index: ShardIndex) -> None:
        super().__init__(config, index)
        method = self.settings
        if method.rank < 1:
            raise BadValue(f"method.rank={method.rank}", "it must be at least 1", "4 to 32 are usual")
        if method.alpha < 0:
            raise BadValue(f"method.alpha={method.alpha}", "it must not be negative", "0 means: as the rank")
        for name in method.targets:
            if name not in (*TARGETS, TEXT_ENCODER):
                raise unknown_name("method.targets", name, (*TARGETS, TEXT_ENCODER))

    @property
    def settings(self) -> LoraConfig:
        """The section `method`."""
        return settings_of(self.config.method, LoraConfig)

    def learner(self, networks: Networks, dtype: torch.dtype) -> DenoisingLearner:
        """Frozen networks in `dtype`, with the updates in float32."""
        targets = self.settings.targets
        layers = [layer for name in targets for layer in TARGETS.get(name, ())]
        unet, text = networks.unet, None
        unet.requires_grad_(False).to(dtype)
        if layers:
            self._add(unet, layers, "unet")
        if self.text_learns(networks):
            text = networks.text_encoder
            text.requires_grad_(False).to(dtype)
            self._add(text, TEXT_LAYERS, TEXT_ENCODER)
            text.train()
        return DenoisingLearner(unet.train(), text, self.denoising)

    def text_learns(self, networks: Networks) -> bool:
        """Where it is among the targets."""
        return TEXT_ENCODER in self.settings.targets

    def _add(self, network: Any, layers: list[str] | tuple[str, ...], name: str) -> None:
        import peft

        method = self.settings
        update = peft.LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha or method.rank,  # type: ignore[arg-type]
            target_modules=list(layers),
            init_lora_weights="gaussian",
        )
        with models.seeded(self.config.seed, "weights", "lora", name):
            try:
                network.add_adapter(update)
            except ValueError as error:
                raise NotFound(
                    f"method.targets={method.targets}: the {name} of model.source={self.config.model.source} "
                    "has none of these layers",
                    "LoRA updates layers that are there",
                    f"choose among {', '.join((*TARGETS, TEXT_ENCODER))}",
                ) from error
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def about(self, modules: Modules) -> dict[str, Any]:
        """Rank, alpha and targets."""
        method = self.settings
        alpha = method.alpha or method.rank
        return {"rank": method.rank, "alpha": alpha, "targets": list(method.targets)}

    def words(self, modules: Modules) -> dict[str, str]:
        """The words that stand for species, where the method taught new ones."""
        return {}

    def export(self, modules: Modules, folder: Path) -> Path:
        """The update alone, with codec.json, rights and the base that it belongs to."""
        learner: Any = modules.learner
        return write_adapter(
            folder,
            "lora",
            lambda partial: write_lora(partial, learner.unet, learner.text_encoder),
            codec=self.codec,
            heard=export.training_set(self.index),
            about=self.facts(modules),
            base=str(self.config.model.source),
            words=self.words(modules),
        )


def write_lora(folder: Path, unet: Any, text_encoder: Any = None) -> None:
    """The updates of networks with an adapter "default", as diffusers writes them, with their alpha.

    The names end in lora_A and lora_B for every layer: diffusers' own renaming to lora.down and lora.up
    leaves convolutions out, and its loader then takes no notice of the layers that were renamed.
    """
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    states: dict[str, Any] = {}
    for name, network in (("unet", unet), ("text_encoder", text_encoder)):
        if network is None or not getattr(network, "peft_config", None):
            continue
        state = get_peft_model_state_dict(network).items()
        states[f"{name}_lora_layers"] = {k: v.detach().float().cpu().contiguous() for k, v in state}
        states[f"{name}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    StableDiffusionPipeline.save_lora_weights(str(folder), weight_name=LORA_FILE, **states)
