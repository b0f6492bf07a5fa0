"""A run that is refused before its first step leaves no folder behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from birdsd.errors import UserError
from birdsd.files import exclusive
from birdsd.runs.run import SIGNATURE_FILE, Run
from birdsd.training.records import LEDGER_FILE

_MADE_WITH_IT = {"config.json", "shards.json", SIGNATURE_FILE}


@contextmanager
def nothing_left_if_refused(run: Run) -> Iterator[None]:
    """Around all that is done with a run that was just opened: where a `UserError` ends it before its first
    step, and the folder did not exist before, the folder is removed.

    One that was submitted stays, with its log, and so does that of several ranks, which may be writing there.
    """
    new = {path.name for path in run.folder.iterdir()} <= _MADE_WITH_IT
    try:
        yield
    except UserError:
        alone = int(os.environ.get("WORLD_SIZE") or 1) == 1
        if new and alone and not (run.folder / LEDGER_FILE).is_file():
            # Whoever started the same run at the same moment holds its lock.
            with suppress(UserError), exclusive(run.folder):
                shutil.rmtree(run.folder, ignore_errors=True)
        raise
