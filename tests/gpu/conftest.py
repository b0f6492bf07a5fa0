"""The card that these tests run on; without one each is skipped, unless they are rehearsed on the CPU."""

import os
from pathlib import Path

import pytest

# Before CUDA's libraries are loaded: without it cuBLAS may add in another order from call to call.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

from tests.gpu.card import REHEARSAL, Card
from tests.support.threads import one_thread as one_thread
from tests.support.tiny import autoencoder_folder as autoencoder_folder
from tests.support.tiny import index as index
from tests.support.tiny import make_shards
from tests.support.tiny import pipeline_folder as pipeline_folder
from tests.support.tiny import trained as trained
from tests.support.toy import make_shards as make_toy_shards


@pytest.fixture(scope="session", autouse=True)
def card() -> Card:
    """The GPU; in a rehearsal the CPU in its place."""
    if os.environ.get(REHEARSAL) == "cpu":
        return Card("cpu")
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        pytest.skip(
            f"PyTorch sees no GPU here (torch {torch.__version__} {built}); "
            f"{REHEARSAL}=cpu runs the same tests on the CPU"
        )
    return Card("cuda")


@pytest.fixture
def repeatable():
    """The same bits from the same numbers: only then a difference is a fault of ours."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Of two species, for the small models; each test its own, so that none finds another's latents."""
    return make_shards(tmp_path / "shards")


@pytest.fixture(scope="session")
def toy_shards(tmp_path_factory) -> Path:
    """For the learner of a few hundred parameters."""
    return make_toy_shards(tmp_path_factory.mktemp("toy-shards"))
