"""What an error is and names, whatever its words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from birdsd.errors import UserError


@contextmanager
def refuses(
    named: str | tuple[str, ...], *offers: str, kind: type[UserError] | None = None
) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """What is done inside ends in a `UserError` of just this `kind`. It names as its problem `named` (values,
    settings, names of files: no sentences), and offers each of `offers` as what is expected or a way out."""
    with pytest.raises(UserError) as caught:
        yield caught
    error = caught.value
    assert kind is None or type(error) is kind, (type(error), error)
    missing = [one for one in ((named,) if isinstance(named, str) else named) if one not in error.problem]
    missing += [one for one in offers if one not in f"{error.expected} {error.hint}"]
    assert not missing, (missing, error)


def refused_as(out: str, code: str, named: str, *offers: str) -> bool:
    """Whether what `--json` printed is an error of this `code`, which names `named` and offers each of
    `offers`."""
    error = json.loads(out)["error"]
    assert error["code"] == code and named in error["problem"], error
    missing = [one for one in offers if one not in f"{error['expected']} {error['hint']}"]
    assert not missing, (missing, error)
    return True
