"""The examples that the bench measures against really train, and train what they should."""

from __future__ import annotations

import math
from itertools import islice

import pytest
import torch

from bench import peers
from bench.methods import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), pairs=1)


@pytest.mark.slow
@pytest.mark.parametrize("way", peers.PEERS)
def test_what_should_learn_moves_and_nothing_else(bench: Bench, way: str) -> None:
    example = peers.PEERS[way](bench.base, bench.ready())
    networks = [getattr(example, name, None) for name in ("unet", "text", "vae")]
    every = {id(p): p for network in networks if network is not None for p in network.parameters()}
    learning = {id(p) for p in example.learning}
    before = {key: p.detach().clone() for key, p in every.items()}
    assert all(math.isfinite(loss) for loss in islice(example.steps(), 2))
    moved = {key for key, p in every.items() if not torch.equal(p, before[key])}
    assert moved and moved <= learning
    if isinstance(example, peers.TextualInversion):
        rows, old = example.text.get_input_embeddings().weight, example.old_rows
        assert torch.equal(rows[old], example.before[old])
        assert not torch.equal(rows[~old], example.before[~old])
