"""Stage 2: `pytest -m gpu`, each file by itself, as an error of CUDA spoils the process that it is in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu_check.course import Item
from bench.gpu_check.pytest_rows import PASSED, ROWS, read_rows
from bench.gpu_check.record import LINES, read_lines
from bench.gpu_check.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "gpu"
FILES = {
    "all": FOLDER,
    **{path.stem.removeprefix("test_"): path for path in sorted(FOLDER.glob("test_*.py"))},
}
# In order of worth.
ITEMS = tuple(Item(name) for name in ("methods", "engines", "machine", "resumed"))
REHEARSED = ("all",)


def run(item: str, settings: Settings, limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for each test as it ends. Those that passed in an earlier call are not run again."""
    passed = {
        str(line["test"])
        for line in read_lines(settings.folder / LINES)
        if line["stage"] == "tests" and line.get("result") == "passed"
    }
    read, write = os.pipe()
    environment = {**os.environ, ROWS: str(write), PASSED: "\n".join(sorted(passed)), "PYTHONUNBUFFERED": "1"}
    if settings.cpu:
        environment |= {"BIRDSD_GPU_REHEARSAL": "cpu", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = ["-m", "pytest", "-q", "-m", "gpu", "-p", "bench.gpu_check.pytest_rows", "-p", "no:cacheprovider"]
    child = subprocess.Popen(
        [sys.executable, *words, str(FILES[item].relative_to(ROOT))],
        cwd=ROOT, env=environment, stdout=sys.stderr, pass_fds=[write],
    )  # fmt: skip
    os.close(write)
    failed = 0
    for row in read_rows(read):
        failed += row["result"] == "failed"
        yield row
    status = child.wait()
    if status not in (0, 5) or failed:  # 5: all passed before
        sys.exit(f"{failed} of its tests failed" if failed else f"pytest ended with {status}")
