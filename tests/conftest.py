"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.testbed import testbed_missing


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real recordings; the test is skipped, with the reason, where there is none."""
    named = os.environ.get("BIRDSD_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"no real recordings at {folder}: set BIRDSD_DATA to a folder that has manifest.csv")
    return folder


@pytest.fixture(scope="session")
def testbed() -> None:
    """The cluster of `make slurm-up`; the test is skipped, with the reason, where it does not run."""
    if reason := testbed_missing():
        pytest.skip(reason)
