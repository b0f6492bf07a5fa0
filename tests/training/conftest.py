"""Shards for the toy learner, and one thread for torch."""

import pytest

from tests.support.threads import one_thread as one_thread
from tests.support.toy import Children, make_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def children(shards):
    # Imported before the forks, so that each child need not do it again.
    import torch.utils.tensorboard

    from birdsd.shards.index import ShardIndex

    torch.optim.AdamW([torch.zeros(1)])  # the first one imports half of torch
    ShardIndex.open(shards)  # the indices beside the shards are made once
    return Children(shards)
