"""Numbers that are not finite (NaN, infinity), found before they become black pictures and silent sounds.

One in a file of weights spoils every sound that is made with it, and nothing on the way says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from birdsd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class NotFinite(UserError):
    """Weights or a result with numbers that are not finite."""

    code = "not-finite"


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are. A sum says so without another tensor of that size."""
    import torch

    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    # A sum of finite numbers may overflow all the same: only then every number is looked at.
    return bool(tensor.sum(dtype=torch.float32).isfinite()) or bool(tensor.isfinite().all())


def check_finite(tensors: Mapping[str, Tensor], source: object, way_out: str = "") -> None:
    """Refuse tensors (by name) of which one holds numbers that are not finite; the first is named."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            count = int(tensor.numel() - tensor.isfinite().sum())
            of = f"{count} numbers of {tensor.numel()}"
            raise NotFinite(
                f"{source}: {name or 'the tensor'} holds {of} that are not finite",
                "with them every picture becomes black and every sound silent",
                way_out or "fetch the file again, or take one from before the training diverged",
            )


def check_networks(networks: Mapping[str, Any], source: object) -> None:
    """`check_finite` of all weights of some networks, by part: "unet.conv_in.weight"."""
    for part, network in networks.items():
        check_finite({f"{part}.{name}": t for name, t in network.state_dict().items()}, source)
