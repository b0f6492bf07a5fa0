"""What an error names, whatever its words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from birdsd.errors import UserError


@contextmanager
def refuses(value: str, *offers: str) -> Iterator[None]:
    """What is done inside ends in a `UserError` that names `value` and offers each of `offers`."""
    with pytest.raises(UserError) as caught:
        yield
    error = caught.value
    assert value in error.problem, error
    for offer in offers:
        assert offer in f"{error.expected} {error.hint}", error
