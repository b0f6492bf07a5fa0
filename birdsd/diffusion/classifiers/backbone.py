"""A backbone of the package timm as a classifier: by name from scratch, or from a folder with its weights.

Batch norms become what does not depend on the batch: group norms from scratch; with trained weights they stay
as they were trained, at their running statistics. (Checkpoints hold no buffers; see `learning.base.Learner`.)
"""

from __future__ import annotations

from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from birdsd.diffusion.classifiers.answer import Answer
from birdsd.errors import Mismatch, NotFound, NotSet, UnknownName, Unsupported
from birdsd.files import read_json

_WEIGHTS = "model.safetensors"


class Backbone(nn.Module):
    """A timm model with one input channel and a linear head."""

    def __init__(self, name: str, classes: int, bare: bool = False) -> None:
        """`name`: of a timm model, or a folder with timm's config.json and model.safetensors. `bare`: the
        weights come afterwards, and none are read."""
        super().__init__()
        folder = Path(name).expanduser()
        trained = bool(name) and folder.is_dir()  # no name would be the current folder
        self.body = _made(_architecture(folder) if trained else name)
        if trained:
            if not bare:
                _load(self.body, folder / _WEIGHTS)
        else:
            with_group_norms(self.body)
        self.embedding_width = int(self.body.num_features)
        self.head = nn.Linear(self.embedding_width, classes)
        self.train(True)

    def train(self, mode: bool = True) -> Backbone:
        """Batch norms that were trained elsewhere, and dropout, stay as in use: a learner draws nothing."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)):
                module.eval()
        return self

    def forward(self, levels: Tensor, keep: Tensor | None = None) -> Answer:
        """`levels` [B, 1, bands, frames]; `keep` [B, embedding_width] is dropout's mask, scaled."""
        embedding = self.body(levels)
        return Answer(self.head(embedding if keep is None else embedding * keep), embedding, None)


def with_group_norms(module: nn.Module) -> None:
    """Replace every batch norm below `module` by a group norm; an activation that timm fused to it stays."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            channels = child.num_features
            norm = nn.GroupNorm(gcd(channels, max(1, channels // 8)), channels)
            after = [getattr(child, part) for part in ("drop", "act") if hasattr(child, part)]
            setattr(module, name, nn.Sequential(norm, *after) if after else norm)
        else:
            with_group_norms(child)


def _made(architecture: str) -> Any:
    if not architecture:
        raise NotSet(
            "method.network=timm without method.backbone",
            "it names a model of timm, or a folder with one",
            "method.backbone=resnet18",
        )
    if find_spec("timm") is None:
        raise Unsupported(
            f"method.backbone={architecture} needs the package timm, which is not installed",
            "method.network=cnn and crnn need nothing more",
            "pip install timm, or set method.network=cnn",
        )
    import timm

    if not timm.is_model(architecture):
        raise UnknownName(
            f"timm {timm.__version__} has no model '{architecture}'",
            "method.backbone is a name as timm.list_models() has it, or a folder with a model",
            "method.backbone=resnet18",
        )
    return timm.create_model(architecture, pretrained=False, in_chans=1, num_classes=0)


def _architecture(folder: Path) -> str:
    """What the config.json of a folder that timm wrote says."""
    return str(read_json(folder / "config.json", "config of the backbone").get("architecture") or "")


def _load(body: Any, path: Path) -> None:
    """timm's weights, without its head; a first layer for colours is added up to one channel."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise NotFound(f"{path} does not exist", "a backbone needs its weights", f"put {_WEIGHTS} there")
    own, given = body.state_dict(), load_file(str(path))
    for name, there in own.items():
        value = given.get(name)
        if value is not None and value.ndim == 4 and there.shape[1] == 1 and value.shape[1] == 3:
            value = value.sum(dim=1, keepdim=True)
        if value is None or value.shape != there.shape:
            raise Mismatch(
                f"{path} holds no fitting {name}",
                f"its shape is {list(there.shape)}",
                "name a folder with the weights of the architecture in its config.json",
            )
        there.copy_(value)
