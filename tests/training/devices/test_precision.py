"""Threads of several ranks, and what scales the loss in fp16."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil
import pytest
import torch

from birdsd.training.engines.offload_engine import LossScale

_DIVIDED = """
import torch
from birdsd.training.devices.precision import divide_cores
torch.set_num_threads(1234)
divide_cores(torch.device("DEVICE"), RANKS)
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(
    ("device", "ranks", "environment", "divided"),
    [
        ("cpu", 2, {"LOCAL_WORLD_SIZE": "2"}, True),
        ("cpu", 4, {"LOCAL_WORLD_SIZE": "100000"}, True),
        ("cpu", 2, {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"}, False),
        ("cpu", 1, {}, False),
        ("cuda", 2, {"LOCAL_WORLD_SIZE": "2"}, False),
    ],
)
def test_ranks_on_one_processor_divide_it_among_them(device, ranks, environment, divided) -> None:
    known = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    code = _DIVIDED.replace("DEVICE", device).replace("RANKS", str(ranks))
    result = subprocess.run(
        [sys.executable, "-c", code], env=known | environment, capture_output=True, text=True, check=True
    )
    cores = psutil.cpu_count(logical=False) or 1
    share = max(1, cores // int(environment.get("LOCAL_WORLD_SIZE", 1)))
    assert int(result.stdout) == (share if divided else 1234)


def test_a_run_in_fp16_goes_on_with_either_scale_of_the_loss() -> None:
    """That in host memory has the state of torch's, which the plain engine uses."""
    assert torch.amp.GradScaler("cpu").state_dict() == LossScale().state_dict()


_PLAIN = """
import sys, torch
from birdsd.schema import OptimConfig
from birdsd.training.devices.precision import Precision
from birdsd.training.devices.world import World
from birdsd.training.engines.torch_engine import TorchEngine
cpu = torch.device("cpu")
TorchEngine(torch.nn.Linear(2, 2), OptimConfig(), Precision("bf16", ""), cpu, World(), 32).close()
print("accelerate" in sys.modules)
"""


def test_the_plain_engine_needs_nothing_but_torch() -> None:
    result = subprocess.run([sys.executable, "-c", _PLAIN], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
