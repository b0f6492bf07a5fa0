"""`birdsd status`: every run in a table, or one in detail. See `overview`, `states`, `hours` and `detail`."""

from __future__ import annotations

from birdsd.cli.tables.status import detail_text, text
from birdsd.runs.status.detail import RunDetail, detail
from birdsd.runs.status.overview import RunStatus, overview, status

__all__ = ["RunDetail", "RunStatus", "detail", "detail_text", "overview", "status", "text"]
