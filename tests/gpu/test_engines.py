"""Every way of carrying out a step, on the card: offload, 8 bits, compiled, ZeRO on one rank, Muon."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.gpu.card import saved, started, train_toy
from tests.support.toy import ToyMethod, losses

pytestmark = pytest.mark.gpu
TOTAL = 60  # samples, in steps of 10
SHORT = {"optim__total_samples": TOTAL, "save__every_samples": 30, "save__validate_every_samples": 30}
MACHINES = {
    "offload": {"offload_optimizer": True},
    "saves without a copy": {"save_in_background": False},
    "ZeRO-1": {"engine": "deepspeed", "zero_stage": 1},
    "ZeRO-2": {"engine": "deepspeed", "zero_stage": 2},
    "ZeRO-3": {"engine": "deepspeed", "zero_stage": 3},
    "ZeRO-2, offload": {"engine": "deepspeed", "zero_stage": 2, "offload_optimizer": True},
    "ZeRO-3, offload": {
        "engine": "deepspeed", "zero_stage": 3, "offload_optimizer": True, "offload_parameters": True
    },
}  # fmt: skip


def asked(machine: dict) -> dict:
    if machine.get("engine") == "deepspeed" and find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed: pip install 'birdsd[deepspeed]'")
    return {**SHORT, **{f"machine__{name}": value for name, value in machine.items()}}


@pytest.fixture(scope="module")
def plain(card, toy_shards, tmp_path_factory):
    """(losses, the last checkpoint's tensors) of plain torch on the card, in float32."""
    run = tmp_path_factory.mktemp("plain")
    train_toy(toy_shards, run, machine__device=card.device, **SHORT)
    return losses(run), saved(run, TOTAL)[0]


def alike(run, plain, rtol, atol) -> None:
    found, (expected, tensors) = losses(run), plain
    assert found.keys() == expected.keys() and len(found) == TOTAL // 10
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=rtol)
    own = saved(run, TOTAL)[0]
    assert own.keys() == tensors.keys()
    for name, value in tensors.items():
        if name.startswith(("weights/", "ema/")):
            torch.testing.assert_close(own[name], value, rtol=0, atol=atol)


@pytest.mark.parametrize("name", MACHINES)
def test_it_learns_what_plain_torch_learns(card, plain, toy_shards, tmp_path, name):
    machine = asked(MACHINES[name])
    events = train_toy(toy_shards, tmp_path, machine__device=card.device, **machine)
    told = started(events)
    assert told["device"].startswith(card.device)
    stage = MACHINES[name].get("zero_stage")
    engine = f"deepspeed-zero{stage}" if stage else "torch-offload" if "offload" in name else "torch"
    assert told["engine"] == engine
    alike(tmp_path, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["offload", "ZeRO-2", "ZeRO-3"])
def test_in_16_bits(card, plain, toy_shards, tmp_path, name, precision):
    if precision == "fp16" and not card.is_gpu:
        pytest.skip("fp16 trains on GPUs only")
    machine = {**asked(MACHINES[name]), "machine__precision": precision}
    events = train_toy(toy_shards, tmp_path, machine__device=card.device, **machine)
    assert started(events)["precision"] == precision
    found, expected = losses(tmp_path), plain[0]
    assert found.keys() == expected.keys() and np.isfinite(list(found.values())).all()
    assert found[10] == pytest.approx(expected[10], rel=3e-2)


@pytest.mark.parametrize("offload", [False, True])
def test_moments_in_8_bits(card, plain, toy_shards, tmp_path, offload):
    pytest.importorskip("bitsandbytes", reason="pip install 'birdsd[eightbit]'")
    machine = {"machine__optimizer_bits": 8, "machine__offload_optimizer": offload}
    train_toy(toy_shards, tmp_path, machine__device=card.device, **SHORT, **machine)
    alike(tmp_path, plain, rtol=5e-2, atol=3e-2)


@pytest.mark.parametrize("graphs", [False, True], ids=["without CUDA graphs", "with CUDA graphs"])
def test_compiled(card, plain, toy_shards, tmp_path, graphs):
    """birdsd itself uses no CUDA graphs; torch.compile does where its configuration says so."""
    from torch._inductor import config as inductor

    if graphs and not card.is_gpu:
        pytest.skip("CUDA graphs are for GPUs only")
    assert not inductor.triton.cudagraphs, "machine.compile is meant to do without"
    with inductor.patch("triton.cudagraphs", graphs):
        torch._dynamo.reset()
        train_toy(
            toy_shards,
            tmp_path,
            machine__device=card.device,
            machine__compile=True,
            method=ToyMethod,
            **SHORT,
        )
    torch._dynamo.reset()
    run = tmp_path / "plain"
    train_toy(toy_shards, run, machine__device=card.device, method=ToyMethod, **SHORT)
    alike(tmp_path, (losses(run), saved(run, TOTAL)[0]), rtol=1e-4, atol=1e-4)


def test_muon_is_that_of_the_cpu(card, toy_shards, tmp_path):
    for device in ("cpu", card.device):
        train_toy(
            toy_shards, tmp_path / f"on-{device}", machine__device=device, optim__optimizer="muon", **SHORT
        )
    ours, theirs = losses(tmp_path / f"on-{card.device}"), losses(tmp_path / "on-cpu")
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=5e-2)  # bf16 in between
