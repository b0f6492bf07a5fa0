"""A plugin of pytest (-p bench.gpu_check.pytest_rows): a line of JSON for each test as it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

ROWS, PASSED = "BIRDSD_GPU_CHECK_ROWS", "BIRDSD_GPU_CHECK_PASSED"


def read_rows(descriptor: int) -> Iterator[dict[str, Any]]:
    """The lines, until the other side has ended."""
    with os.fdopen(descriptor, encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what passed before."""
    passed = set(os.environ.get(PASSED, "").splitlines())
    known = [item for item in items if item.nodeid in passed]
    if known:
        config.hook.pytest_deselected(items=known)
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Of the call; of setting up and tearing down only where that was all, or failed."""
    if report.when != "call" and report.passed:
        return
    row = {"test": report.nodeid, "result": report.outcome, "seconds": round(report.duration, 2)}
    if not report.passed:
        row["why"] = _reason(report)
    os.write(int(os.environ[ROWS]), (json.dumps(row) + "\n").encode())


def _reason(report: pytest.TestReport) -> str:
    told = report.longrepr
    if isinstance(told, tuple):  # a skip: (path, line, reason)
        return str(told[2])[:300]
    crash = getattr(told, "reprcrash", None)
    return str(crash.message if crash is not None else told)[:300]
