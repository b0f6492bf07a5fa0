"""Compact and RRDB under their published names: sizes, recognition, and two sets of weights in one."""

from __future__ import annotations

import pytest
import torch

from birdsd.diffusion.upscaling.networks import COMPACT, RRDB, Shape, built, recognised, under_new_names
from birdsd.diffusion.upscaling.twofold import Twofold
from birdsd.errors import BadValue, UnknownName, UserError
from tests.support.fine import noisy

# Parameters of the published networks, of three channels, and of two of one channel (reference values).
PUBLISHED = {
    Shape(RRDB, 64, 23, 4, 3, 32): 16_697_987,
    Shape(RRDB, 64, 6, 4, 3, 32): 4_467_779,
    Shape(RRDB, 32, 3, 4, 1, 16): 577_601,
    Shape(COMPACT, 64, 16, 2, 1): 594_884,
    Shape(COMPACT, 32, 8, 2, 1): 75_748,
}
SMALL = [
    Shape(network, 4, blocks, scale, channels, 4)
    for network, blocks in ((COMPACT, 1), (COMPACT, 3), (RRDB, 1), (RRDB, 2))
    for scale in (2, 4)
    for channels in (1, 3)
]


@pytest.mark.parametrize("shape", PUBLISHED, ids=str)
def test_they_have_the_published_sizes(shape: Shape) -> None:
    with torch.device("meta"):
        network = shape.build()
    assert sum(one.numel() for one in network.parameters()) == PUBLISHED[shape]


def test_they_have_the_published_names() -> None:
    names = set(Shape(COMPACT, 8, 2).build().state_dict())
    assert names == {
        "body.0.weight", "body.0.bias", "body.1.weight", "body.2.weight", "body.2.bias", "body.3.weight",
        "body.4.weight", "body.4.bias", "body.5.weight", "body.6.weight", "body.6.bias",
    }  # fmt: skip
    names = {name.rpartition(".")[0] for name in Shape(RRDB, 8, 1).build().state_dict()}
    dense = {f"body.0.rdb{block}.conv{layer}" for block in (1, 2, 3) for layer in range(1, 6)}
    ends = {"conv_first", "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"}
    assert names == dense | ends


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_a_network_is_told_by_its_tensors_and_makes_pictures_of_its_scale(shape: Shape) -> None:
    weights = noisy(shape)
    found = recognised(weights)
    assert found is not None
    assert (found.network, found.features, found.blocks, found.scale, found.channels) == (
        shape.network, shape.features, shape.blocks, shape.scale, shape.channels,
    )  # fmt: skip
    network = found.build()
    network.load_state_dict(weights)
    picture = torch.rand(2, shape.channels, 5, 7)  # no multiple of what RRDB folds
    assert network(picture).shape == (2, shape.channels, 5 * shape.scale, 7 * shape.scale)


@pytest.mark.parametrize("shape", [Shape(COMPACT, 4, 3), Shape(RRDB, 4, 1, 4), Shape(RRDB, 4, 1, 2)], ids=str)
def test_nothing_beyond_the_radius_changes_a_pixel(shape: Shape) -> None:
    network = shape.build()
    network.load_state_dict(noisy(shape))
    size = 2 * shape.radius + 8
    picture = torch.rand(1, 1, 4, size, requires_grad=True)
    made = network(picture)[0, 0, 0, size * shape.scale // 2]
    (seen,) = torch.autograd.grad(made, picture)
    reached = seen.abs().sum((0, 1, 2)).nonzero().flatten()
    assert (reached - size // 2).abs().max() <= shape.radius
    assert len(reached) > 2


@pytest.mark.parametrize("drop", ["body.0.weight", "body.4.bias", "body.3.weight"])
def test_what_lacks_a_tensor_is_no_network(drop: str) -> None:
    weights = noisy(Shape(COMPACT, 4, 1))
    assert recognised(weights) is not None
    assert recognised({name: one for name, one in weights.items() if name != drop}) is None


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"body.0.weight": torch.zeros(4, 1, 3, 3)},
        {"conv_first.weight": torch.zeros(4), "conv_last.weight": torch.zeros(4)},
        {f"body.{n}.weight": torch.zeros(2, 2) for n in range(5)},
    ],
)
def test_other_tensors_are_no_network(tensors) -> None:
    assert recognised(tensors) is None and under_new_names(tensors).keys() == tensors.keys()


def test_the_names_of_the_first_esrgan_files_are_understood() -> None:
    weights = noisy(Shape(RRDB, 4, 2, 4, 3, 4))
    old = {}
    for name, one in weights.items():
        parts = name.split(".")
        if parts[0] == "body":
            stem = f"model.1.sub.{parts[1]}.RDB{parts[2][-1]}.conv{parts[3][-1]}.0"
        else:
            stem = {
                "conv_first": "model.0", "conv_body": "model.1.sub.2", "conv_up1": "model.3",
                "conv_up2": "model.6", "conv_hr": "model.8", "conv_last": "model.10",
            }[parts[0]]  # fmt: skip
        old[f"{stem}.{parts[-1]}"] = one
    renamed = under_new_names(old)
    assert renamed.keys() == weights.keys()
    assert all(torch.equal(renamed[name], weights[name]) for name in weights)


@pytest.mark.parametrize(
    ("shape", "what", "kind"),
    [
        (Shape("esrgan"), "method.architecture", UnknownName),
        (Shape(scale=3), "method.scale=3", BadValue),
        (Shape(features=0), "method.features=0", BadValue),
        (Shape(blocks=-1), "method.depth=-1", BadValue),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(shape: Shape, what: str, kind: type[UserError]) -> None:
    with pytest.raises(kind) as caught:
        built(shape, 0)
    assert what in caught.value.problem


# -- two sets of weights ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recomputed", [False, True])
def test_the_sharper_set_learns_without_moving_the_plain_one(recomputed: bool) -> None:
    twofold = Twofold(Shape(COMPACT, 4, 1), 0, sharp=True)
    if recomputed:
        twofold.enable_gradient_checkpointing()
    picture = torch.rand(1, 1, 6, 6)
    plain, sharp = twofold(picture, True)
    assert sharp is not None and torch.equal(plain, sharp)  # until it has learnt
    sharp.square().sum().backward()
    reached = {name: p.grad for name, p in twofold.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached and all(name.startswith("sharper") for name in reached)
    twofold.zero_grad()
    twofold(picture, False)[0].square().sum().backward()
    assert all(p.grad is not None for p in twofold.parameters())
    moved = {name for name, p in twofold.named_parameters() if p.grad.any()}
    assert moved and all(name.startswith("plain") for name in moved)


def test_their_mixture_is_that_of_the_weights() -> None:
    twofold = Twofold(Shape(COMPACT, 4, 1), 0, sharp=True)
    with torch.no_grad():
        for name, parameter in twofold.named_parameters():
            if name.startswith("sharper"):
                parameter.fill_(0.5)
    plain, half, whole = (twofold.weights(one) for one in (0.0, 0.5, 1.0))
    for name in plain:
        torch.testing.assert_close(half[name], plain[name] + 0.25)
        torch.testing.assert_close(whole[name], plain[name] + 0.5)
    network = twofold.shape.build()
    network.load_state_dict(whole)
    picture = torch.rand(1, 1, 6, 6)
    torch.testing.assert_close(network(picture), twofold(picture, True)[1])
