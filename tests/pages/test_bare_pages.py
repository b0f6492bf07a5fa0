"""Pages of which there is next to nothing to show: every template holds on what may be missing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from birdsd.evaluation.comparison import ArmResult, Comparison
from birdsd.pages.comparison.page import comparison_page
from birdsd.pages.demo import demo_page
from birdsd.shards.index import ShardIndex
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.pages import _Checker, _data
from tests.support.songs import SPECIES

SETTINGS = {"samples": 8, "clips_per_species": 1, "steps": 2, "guidance": 1.0, "seed": 0, "model": "tiny",
            "codec": "test"}  # fmt: skip
ARMS = [ArmResult("base", "Base", "x", control=True), ArmResult("a", "A", "y", missing="not <yet>"),
        ArmResult("b", "B", "z")]  # fmt: skip


@pytest.mark.parametrize("arms", [[], ARMS[:1], ARMS[1:2], ARMS])
@pytest.mark.parametrize("name", ["compare_methods", "another"])
def test_a_comparison_without_scores(name: str, arms: list[ArmResult], index: ShardIndex, tmp_path: Path):
    told = Comparison(name, SPECIES[:2], SPECIES[2:], arms, None, 0, 0, [], {}, SETTINGS)
    page = _Checker(comparison_page(tmp_path / "page.html", told, index).read_text("utf-8"))
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == [f"#part-{n}" for n in range(1, 8)]
    assert ("not <yet>" in page.text) == any(arm.missing for arm in arms)


def test_a_demo_without_runs_and_sounds(codec: SpectrogramCodec, tmp_path: Path) -> None:
    data = dataclasses.replace(
        _data(codec, None, False, "x"), pairs=[], trainings=[], stages=[], facts={}, credits=[],
        clips_per_species={},
    )  # fmt: skip
    page = _Checker(demo_page(tmp_path / "page.html", data).read_text("utf-8"))
    assert not any(tag in {"audio", "svg"} for tag, _ in page.tags)
