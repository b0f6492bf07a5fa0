"""From a checkpoint back to a whole model: for previews and for the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from birdsd.diffusion.networks.finite import NotFinite
from birdsd.training.checkpoints.reading import Checkpoint
from birdsd.training.engines.out_of_memory import is_out_of_memory, reason_of

if TYPE_CHECKING:
    from birdsd.diffusion.learning.base import Learner, LearningMethod, Modules
    from birdsd.schema import TrainConfig
    from birdsd.shards.index import ShardIndex

_PROMPTS = 4


@torch.no_grad()
def load_weights(learner: Learner, checkpoint: Checkpoint, kind: str) -> None:
    """Put a checkpoint's weights, or their average (`kind` is weights or ema), into a learner."""
    for name, parameter in learner.named_parameters():
        if not parameter.requires_grad:
            continue
        checkpoint.check_shape(kind, name, parameter.shape)
        parameter.copy_(checkpoint.tensor(kind, name))


def build_from_checkpoint(
    method: LearningMethod, checkpoint: Checkpoint, device: torch.device, seed: int, for_use: bool = False
) -> Modules:
    """The method's modules with what a checkpoint holds: the EMA where there is one. `for_use`: the learner
    is on the device also where it is built in host memory (machine.offload_optimizer)."""
    torch.manual_seed(seed)
    modules = method.build(device, torch.float32)
    load_weights(modules.learner, checkpoint, "ema" if checkpoint.has("ema") else "weights")
    modules.learner.eval()
    if for_use:
        modules.learner.to(device)
    return modules


def prompts_for(config: TrainConfig, index: ShardIndex) -> list[str]:
    """What previews show: save.preview_prompts, or the first species of the shards."""
    from birdsd.sound.captions import prompt_for

    return list(config.save.preview_prompts) or [prompt_for([name]) for name in index.species[:_PROMPTS]]


def write_preview(
    method: LearningMethod,
    modules: Callable[[], Modules],
    config: TrainConfig,
    index: ShardIndex,
    folder: Path,
) -> tuple[list[Path], dict[str, str]]:
    """Write the previews; paths and event. Where memory runs out or they are no pictures there are none, and
    the event says why."""
    try:
        made = modules()
        try:
            paths = method.preview(made, prompts_for(config, index), folder)
        finally:
            if config.machine.cache_latents:
                made.frozen.release()
        return paths, {"event": "preview", "folder": str(folder)}
    except Exception as error:
        if not (is_out_of_memory(error) or isinstance(error, NotFinite)):
            raise
        return [], {"event": "preview skipped", "folder": str(folder), "reason": reason_of(error)}
