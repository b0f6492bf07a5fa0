"""Shards for the toy learner, and one thread for torch."""

import pytest

from tests.support.threads import one_thread as one_thread
from tests.support.toy import Children, make_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def children(shards):
    from birdsd.shards.index import ShardIndex

    ShardIndex.open(shards)  # the indices beside the shards are made once
    return Children(shards)
