"""Shards for the toy learner, and one thread for torch."""

import pytest
import torch

from tests.training.toy import Children, make_shards


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def children(shards):
    # Imported before the forks, so that each child need not do it again.
    import accelerate  # noqa: F401
    import torch.utils.tensorboard

    from birdsd.shards.index import ShardIndex

    torch.optim.AdamW([torch.zeros(1)])  # the first one imports half of torch
    ShardIndex.open(shards)  # the indices beside the shards are made once
    return Children(shards)
