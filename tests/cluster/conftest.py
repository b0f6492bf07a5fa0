"""The Slurm testbed as a fixture."""

from __future__ import annotations

import pytest

from tests.cluster.testbed import testbed_missing


@pytest.fixture(scope="session")
def testbed() -> None:
    """The cluster of `make slurm-up`; the test is skipped, with the reason, where it does not run."""
    if reason := testbed_missing():
        pytest.skip(reason)
