"""The ruler for the memory of tensors, against sums that can be done by hand."""

from __future__ import annotations

import gc

import torch

from birdsd.planning.live_tensors import LiveTensors


def test_bytes_are_those_of_what_is_alive() -> None:
    network = torch.nn.Linear(100, 100)
    weights = sum(parameter.nbytes for parameter in network.parameters())
    live = LiveTensors()
    for parameter in network.parameters():
        live.hold(parameter)
    with live:
        assert live.bytes == live.peak_bytes == weights
        pictures = torch.zeros(10, 100)
        made = network(pictures)
        assert live.bytes == weights + 2 * pictures.nbytes
        part = made[:1]  # a view keeps the whole storage alive, and counts once
        del made
        gc.collect()
        assert live.bytes == weights + 2 * pictures.nbytes
        del part
        gc.collect()
        assert live.bytes == weights + pictures.nbytes
        network(pictures).sum().backward()
        gc.collect()
        assert live.bytes == 2 * weights + pictures.nbytes
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        optimizer.step()
        moments = sum(v.nbytes for state in optimizer.state.values() for v in state.values())
        assert moments > 2 * weights and live.bytes == 2 * weights + pictures.nbytes + moments
        most = live.peak_bytes
        optimizer.zero_grad()
        gc.collect()
        assert live.bytes == weights + pictures.nbytes + moments and live.peak_bytes == most
        live.restart_peak()
        assert live.peak_bytes == live.bytes


def test_a_place_that_is_used_again_counts_anew() -> None:
    with LiveTensors() as live:
        for _ in range(5):
            torch.zeros(1000)
        gc.collect()
        assert live.bytes == 0 and live.peak_bytes == 4000


def test_fake_tensors_count_without_being_allocated() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), LiveTensors() as live:
        much = torch.empty(2**40)
        assert live.bytes == 4 * 2**40
        del much
        gc.collect()
        assert live.bytes == 0


def test_a_traced_tensor_of_any_size_is_left_out() -> None:
    """An export to ONNX in the same process leaves such tensors behind; `hold_all` meets them."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    shapes = ShapeEnv()
    with FakeTensorMode(shape_env=shapes):
        traced = torch.empty(shapes.create_unbacked_symint(), 5)
    assert not isinstance(traced.untyped_storage().nbytes(), int)
    live = LiveTensors()
    live.hold(traced)
    assert live.bytes == 0 and live.peak_bytes == 0
    real = torch.zeros(3, 5)
    live.hold_all()
    assert live.bytes >= real.nbytes
