"""Work done ahead by threads, handed out in order. Reading and decoding release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetcher(Generic[Item, Result]):
    """Iterates over `function(item)` for the items, in their order, at most `depth` ahead.

    With `threads` = 0 everything happens in the caller. An exception comes out where its result would
    have. Use it as a context manager, or call `close`, so that waiting work is dropped.
    """

    def __init__(
        self, function: Callable[[Item], Result], items: Iterable[Item], threads: int = 2, depth: int = 4
    ) -> None:
        self._function, self._items = function, iter(items)
        self._depth = max(1, depth)
        self._waiting: deque[Future[Result]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="birdsd-reader") if threads > 0 else None

    def __iter__(self) -> Iterator[Result]:
        if self._pool is None:
            yield from map(self._function, self._items)
            return
        try:
            self._fill()
            while self._waiting:
                result = self._waiting.popleft().result()
                self._fill()
                yield result
        finally:
            self.close()

    def _fill(self) -> None:
        assert self._pool is not None
        while len(self._waiting) < self._depth:
            try:
                item = next(self._items)
            except StopIteration:
                return
            self._waiting.append(self._pool.submit(self._function, item))

    def close(self) -> None:
        """Drop what has not begun and end the threads; may be called twice."""
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Prefetcher[Item, Result]:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
