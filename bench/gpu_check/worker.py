"""One item of a stage, in a process of its own: python -m bench.gpu_check.worker STAGE ITEM SECONDS SETTINGS.

Standard output is for rows alone, a line of JSON each.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.gpu_check.settings import REHEARSAL, Settings

_PATIENCE_S = 2.0  # for what was started here to end by itself


def main() -> int:
    """Print the item's rows as they are found."""
    stage, item, limit_s, settings = sys.argv[1:]
    # A shell that starts something in the background has it ignore Ctrl+C, and all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows, sys.stdout = sys.stdout, sys.stderr
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        for row in rows_of(stage, item, float(limit_s), Settings.from_json(settings)):
            print(json.dumps(row, default=str), file=rows, flush=True)
    except KeyboardInterrupt:
        time.sleep(_PATIENCE_S)
        os.killpg(os.getpgid(0), signal.SIGKILL)
    return 0


def rows_of(stage: str, item: str, limit_s: float, settings: Settings) -> Iterator[dict[str, Any]]:
    """What the stage's module finds; in a rehearsal its items one after the other, in one process."""
    module = importlib.import_module(f"bench.gpu_check.{stage}")
    names = module.REHEARSED if item == REHEARSAL else (item,)
    for name in names:
        for row in module.run(name, settings, limit_s / len(names)):
            yield {**row, "item": name}


def _end_with(parent: int) -> None:
    """Nobody reads on once the course was killed: then end, with all that was started here."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(os.getpgid(0), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
