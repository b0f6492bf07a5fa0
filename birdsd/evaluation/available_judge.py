"""The judge, where there is one; else the one line that says why not and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from birdsd.errors import UserError
from birdsd.evaluation import judges

if TYPE_CHECKING:
    from birdsd.evaluation.judges import Judge

NOT_INSTALLED = (
    "the judge BirdNET is not installed: pip install 'birdsd[birdnet]', then the same command again"
)
WEAK_ONLY = "only the weak check was used, for "


def available_judge() -> tuple[Judge | None, str]:
    """The installed judge and "", or None and one line that says why there is none and what to do."""
    if not judges.installed():
        return None, NOT_INSTALLED
    try:
        return judges.find_judge(), ""
    except UserError as error:
        return None, f"the judge could not be used: {error}"
