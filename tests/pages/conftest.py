"""Three species as shards; a codec small enough for quick tests."""

from tests.support.songs import codec as codec
from tests.support.songs import index as index
