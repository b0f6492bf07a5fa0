"""The page of a grid stands alone: labels on both axes, a player and a command in every cell."""

from __future__ import annotations

import re

import numpy as np
import pytest

from birdsd.pages.grid import Cell, GridData, write_grid_page
from birdsd.pages.media import AudioClip
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.pages import HOSTILE, _Checker

CODEC = SpectrogramCodec(
    name="test", rate_hz=16000, window_ms=16.0, hop_ms=8.0, n_fft=256, bands=32, fmin_hz=62.5, fmax_hz=8000.0,
    frames=64, griffin_lim_iterations=4,
)  # fmt: skip


def of(page: _Checker, tag: str) -> list[dict[str, str | None]]:
    return [attributes for name, attributes in page.tags if name == tag]


def shown(level: int, caption: str = "") -> AudioClip:
    image = np.full((1, 32, 64), level, np.uint8)
    return AudioClip(CODEC, image, np.zeros((1, 8192), np.float32), 16000, caption)


@pytest.fixture
def data():
    cells = [
        Cell(x, y, f"birdsd run generate guidance={x}", [shown(100 + 40 * x)])
        for y in (0, 1)
        for x in (0, 1, 2)
    ]
    return GridData("guidance", ["1", "3", "5"], "steps", ["10", "25"], cells, {"prompt": "a robin"})


def test_every_cell_has_its_place_picture_player_and_command(data, tmp_path):
    text = write_grid_page(tmp_path / "grid.html", data).read_text()
    page = _Checker(text)
    assert len(of(page, "audio")) == 6 and len(of(page, "img")) == 6
    assert {a["aria-label"] for a in of(page, "audio")} == {
        f"guidance {x}, steps {y}" for x in (1, 3, 5) for y in (10, 25)
    }
    assert [a.get("scope") for a in of(page, "th")] == ["colgroup", "col", "col", "col", "col", "row", "row"]
    assert all(a["alt"].startswith("Spectrogram: guidance") for a in of(page, "img"))
    assert text.count("birdsd run generate guidance=2") == 2
    assert "\u201ca robin\u201d" in text


def test_the_page_needs_no_network(data, tmp_path):
    text = write_grid_page(tmp_path / "grid.html", data).read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    policy = [a["content"] for a in of(_Checker(text), "meta") if a.get("http-equiv")]
    assert len(policy) == 1 and "default-src 'none'" in (policy[0] or "")


def test_one_row_needs_no_second_axis(tmp_path):
    cells = [Cell(x, 0, "c", [shown(100), shown(110, "second")]) for x in (0, 1)]
    data = GridData("seed", ["0", "1"], "", [""], cells, {})
    page = _Checker(write_grid_page(tmp_path / "grid.html", data).read_text())
    assert len(of(page, "audio")) == 4 and len(of(page, "tr")) == 3
    assert not [a for a in of(page, "th") if a.get("scope") == "row"]


def test_colours_compare_across_cells():
    quiet, loud = shown(100), shown(200)
    loudest = loud.loudest_db
    assert loud.levels(loudest).max() == 255
    # 100 of 255 steps of a 100 dB range below: 39.2 dB of the 65 that are shown.
    assert quiet.levels(loudest).max() == pytest.approx(255 * (1 - 39.2 / 65), abs=2)


def test_hostile_names_stay_text(tmp_path):
    cells = [Cell(0, 0, f"birdsd {HOSTILE}", [shown(100, HOSTILE), shown(100)])]
    data = GridData(HOSTILE, [HOSTILE], HOSTILE, [HOSTILE], cells, {"prompt": HOSTILE, HOSTILE: HOSTILE})
    text = write_grid_page(tmp_path / "grid.html", data).read_text()
    _Checker(text)
    assert "<script>alert" not in text and 'onload="alert' not in text
