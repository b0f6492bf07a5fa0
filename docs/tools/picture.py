"""A Mermaid graph as SVG, drawn when the site is built: it shows without network or script.

Only what docs/architecture.md uses: `graph TD`, and lines `a[words] --> b[words]` or `a -. words .-> b`.
Boxes lie in rows, each below everything that points to it; an arrow that passes a row has a lane of its own.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from itertools import pairwise

BOX_WIDTH, BOX_HEIGHT, GAP_ACROSS, GAP_DOWN, LANE_WIDTH = 150, 46, 18, 44, 18
_BOX = r"(\w+)(?:\[([^]]*)\])?"
_ARROW = re.compile(rf"{_BOX}\s*(?:-->|-\.\s*([^.]*?)\s*\.->)\s*{_BOX}")


@dataclass
class Graph:
    """Words by box, and arrows (from, to, words on a dotted one or None)."""

    words: dict[str, str] = field(default_factory=dict)
    arrows: list[tuple[str, str, str | None]] = field(default_factory=list)


def read_graph(text: str) -> Graph:
    """Parse the Mermaid text; raises ValueError for a line that is none of those above."""
    first, *lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if first != "graph TD":
        raise ValueError(f"cannot draw {first!r}: only graph TD")
    graph = Graph()
    for line in lines:
        found = _ARROW.fullmatch(line)
        if not found:
            raise ValueError(f"cannot draw {line!r}: only a[words] --> b[words]")
        start, start_words, label, end, end_words = found.groups()
        for name, words in ((start, start_words), (end, end_words)):
            if words or name not in graph.words:
                graph.words[name] = words or name
        graph.arrows.append((start, end, label))
    return graph


def ranks(graph: Graph) -> dict[str, int]:
    """The row of each box: one below the lowest that points to it. Raises ValueError on a circle."""
    rank = dict.fromkeys(graph.words, 0)
    for _ in graph.words:  # a way from top to bottom passes no more boxes than there are
        moved = False
        for start, end, _words in graph.arrows:
            if rank[end] <= rank[start]:
                rank[end], moved = rank[start] + 1, True
        if not moved:
            return rank
    raise ValueError("the arrows go round in a circle")


@dataclass
class _Place:
    """Where a box, or the lane of an arrow that passes a row, lies."""

    row: int
    x: float = 0.0
    lane: bool = False


class Drawing:
    """Boxes and lanes in rows, ordered so that arrows cross little, and their SVG."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        rank = ranks(graph)
        self.places = {name: _Place(row) for name, row in rank.items()}
        self.rows: list[list[str]] = [[] for _ in range(max(rank.values()) + 1)]
        for name, row in rank.items():
            self.rows[row].append(name)
        self.routes = [self._route(number) for number in range(len(graph.arrows))]
        self._order()
        self._spread()

    def _route(self, number: int) -> list[str]:
        """Everything that an arrow passes, from box to box; lanes are made where it passes a row."""
        start, end, _ = self.graph.arrows[number]
        route = [start]
        for row in range(self.places[start].row + 1, self.places[end].row):
            name = f"{number}:{row}"
            self.places[name] = _Place(row, lane=True)
            self.rows[row].append(name)
            route.append(name)
        return [*route, end]

    def _neighbours(self) -> dict[str, tuple[list[str], list[str]]]:
        near: dict[str, tuple[list[str], list[str]]] = {name: ([], []) for name in self.places}
        for route in self.routes:
            for upper, lower in pairwise(route):
                near[lower][0].append(upper)
                near[upper][1].append(lower)
        return near

    def _order(self) -> None:
        """Each row by the mean place of its neighbours, downwards and upwards in turn (Sugiyama 1981)."""
        near = self._neighbours()
        at = {name: index / len(row) for row in self.rows for index, name in enumerate(row)}
        for sweep in range(12):
            side = sweep % 2
            for row in self.rows if side == 0 else reversed(self.rows):
                row.sort(key=lambda name: _mean([at[one] for one in near[name][side]], at[name]))
                at.update({name: (index + 0.5) / len(row) for index, name in enumerate(row)})

    def _spread(self) -> None:
        """Set x: near the mean of the neighbours, and no two of a row over each other."""
        near = self._neighbours()
        for row in self.rows:
            self._pack(row, [0.0] * len(row))
        for sweep in range(12):
            side = sweep % 2
            for row in self.rows if side == 0 else reversed(self.rows):
                wanted = [
                    _mean([self.places[one].x for one in near[name][side]], self.places[name].x)
                    for name in row
                ]
                self._pack(row, wanted)
        least = min(place.x - self._width(name) / 2 for name, place in self.places.items())
        for place in self.places.values():
            place.x += GAP_ACROSS - least

    def _width(self, name: str) -> float:
        return LANE_WIDTH if self.places[name].lane else BOX_WIDTH

    def _pack(self, row: list[str], wanted: list[float]) -> None:
        """Put a row where it is wanted, pushed apart to the right, then moved back as a whole."""
        x, free = [], float("-inf")
        for name, place in zip(row, wanted, strict=True):
            half = self._width(name) / 2
            x.append(max(place, free + half))
            free = x[-1] + half + GAP_ACROSS
        shift = _mean([place - got for place, got in zip(wanted, x, strict=True)], 0.0)
        for name, place in zip(row, x, strict=True):
            self.places[name].x = place + shift

    def svg(self) -> str:
        """The picture, in the colours of the text around it."""
        width = max(place.x + self._width(name) / 2 for name, place in self.places.items()) + GAP_ACROSS
        height = len(self.rows) * (BOX_HEIGHT + GAP_DOWN)
        drawn = [self._arrow(route, self.graph.arrows[number][2]) for number, route in enumerate(self.routes)]
        drawn += [self._box(name, words) for name, words in self.graph.words.items()]
        told = "; ".join(f"{start} to {end}" for start, end, _ in self.graph.arrows)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img" '
            f'aria-label="arrows: {html.escape(told)}" font-size="12" fill="none" stroke="currentColor" '
            'style="max-width:100%"><defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="7" markerHeight="7" orient="auto">'
            '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>' + "".join(drawn) + "</svg>"
        )

    def _top(self, name: str) -> float:
        return self.places[name].row * (BOX_HEIGHT + GAP_DOWN) + GAP_DOWN / 4

    def _arrow(self, route: list[str], label: str | None) -> str:
        x, y = self.places[route[0]].x, self._top(route[0]) + BOX_HEIGHT
        path = f"M{x:.0f} {y:.0f}"
        for name in route[1:]:
            down, to = self._top(name), self.places[name].x
            middle = (y + down) / 2
            path += f"C{x:.0f} {middle:.0f} {to:.0f} {middle:.0f} {to:.0f} {down:.0f}"
            x, y = to, down
            if self.places[name].lane:
                y += BOX_HEIGHT
                path += f"V{y:.0f}"
        dotted = "" if label is None else ' stroke-dasharray="3 4"'
        words = "" if not label else _text(x + 4, y - 8, label, "start")
        return f'<path d="{path}" marker-end="url(#tip)" opacity="0.6"{dotted}/>{words}'

    def _box(self, name: str, words: str) -> str:
        x, top = self.places[name].x, self._top(name)
        head, _, rest = words.partition(": ")
        lines = [head, *_wrapped(rest)]
        first = top + BOX_HEIGHT / 2 + 4 - 6.5 * (len(lines) - 1)
        said = "".join(_text(x, first + 13 * index, line) for index, line in enumerate(lines))
        left = x - BOX_WIDTH / 2
        return f'<rect x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6"/>{said}'


def _wrapped(text: str, most: int = 25) -> list[str]:
    """Words in lines of at most so many letters, where a word allows it."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < most:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _text(x: float, y: float, words: str, anchor: str = "middle") -> str:
    at = f'x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"'
    return f'<text {at} fill="currentColor" stroke="none">{html.escape(words)}</text>'


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def drawn(markdown: str) -> str:
    """The Markdown with each Mermaid block as a picture."""

    def picture(block: re.Match[str]) -> str:
        return f'<div class="picture">{Drawing(read_graph(block[1])).svg()}</div>\n'

    return re.sub(r"^```mermaid\n(.*?)^```\n", picture, markdown, flags=re.DOTALL | re.MULTILINE)
