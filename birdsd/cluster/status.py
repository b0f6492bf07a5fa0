"""`birdsd status`: every run in a table, or one in detail. See `overview`, `states`, `hours` and `detail`."""

from __future__ import annotations

from birdsd.cluster.detail import RunDetail, detail
from birdsd.cluster.overview import RunStatus, overview, status
from birdsd.cluster.status_text import detail_text, text

__all__ = ["RunDetail", "RunStatus", "detail", "detail_text", "overview", "status", "text"]
