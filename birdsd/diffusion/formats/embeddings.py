"""Learnt tokens and aesthetic embeddings in the forms that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.networks.finite import check_finite
from birdsd.errors import Mismatch, NotFound, Unsupported

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.formats.tensors import Content

KOHYA = "emb_params"


def a1111_form(token: str, vectors: Tensor, step: int, base: str) -> dict[str, Any]:
    """What AUTOMATIC1111 saves for an embedding. 265 is the number of "*", and nobody looks at it."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": token,
        "step": step,
        "sd_checkpoint": None,
        "sd_checkpoint_name": base or None,
    }


def read_tokens(content: Content) -> dict[str, Tensor] | None:
    """{token: float32 [n, width]} of a file in diffusers', AUTOMATIC1111's or kohya's form; None where it is
    no embedding. Where the form has no name for the token it is the file's stem.
    """
    params = content.values.get("string_to_param")
    if isinstance(params, Mapping):
        if len(params) != 1:
            raise Mismatch(
                f"{content.path} holds {len(params)} vectors of different names",
                "an embedding of AUTOMATIC1111 holds one",
                "save them one by one",
            )
        name, value = next(iter(params.items()))
        return {content.stem: rows_of(value, content, f"string_to_param.{name}")}
    tensors = content.tensors
    if {"clip_l", "clip_g"} & tensors.keys():
        raise Unsupported(
            f"{content.path} is an embedding for SDXL",
            "only those for Stable Diffusion 1 can be read",
            "find such a file",
        )
    if KOHYA in tensors:
        return {content.stem: rows_of(tensors[KOHYA], content, KOHYA)}
    plain = tensors and "" not in tensors and all(t.ndim in (1, 2) for t in tensors.values())
    if not plain or len({t.shape[-1] for t in tensors.values()}) != 1 or any("." in name for name in tensors):
        return None
    return {name: rows_of(tensor, content, name) for name, tensor in tensors.items()}


def rows_of(value: Any, content: Content, name: str) -> Tensor:
    """float32 [vectors, width] of a tensor; `name` is what the file calls it."""
    from torch import Tensor

    if not isinstance(value, Tensor) or value.ndim not in (1, 2) or not value.is_floating_point():
        raise NotFound(
            f"{content.path} holds no vectors",
            "an embedding is one row or several, [vectors, width]",
            "name another file",
        )
    check_finite({name: value.detach()}, content.path)
    return value.detach().float().reshape(-1, value.shape[-1])


def read_aesthetic(content: Content) -> Tensor | None:
    """float32 [1, d] of a bare tensor; None where the file is something else."""
    value = content.tensors.get("")
    if value is None:
        return None
    rows = rows_of(value, content, "")
    if rows.shape[0] != 1:
        raise Mismatch(
            f"{content.path} is a tensor of {list(value.shape)}",
            "an aesthetic embedding is one vector, [1, d]",
            "name another file",
        )
    return rows
