"""The tables of docs/upscaler.md: what sharpness costs, what is possible at all, and clips of a generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench import upscaled_clips, upscaling_table
from birdsd.diffusion.formats.upscalers import measured_on
from birdsd.diffusion.upscaling.folder import read_upscaler
from birdsd.diffusion.upscaling.levels import Levels
from birdsd.diffusion.upscaling.measure import Tally, detail_db
from birdsd.diffusion.upscaling.upscaler import Upscaler
from birdsd.shards.index import ShardIndex
from tests.support.fine import FINE, fine_shards, upscaler_folder
from tests.support.tiny import CODEC, SPECIES


@pytest.fixture(scope="module")
def stored_and_shards(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tables")
    return upscaler_folder(folder / "upscaler"), fine_shards(folder / "shards")


def figures(said: str) -> dict[str, list[float]]:
    """The numbers of each row, by what stands before them."""
    rows = {}
    for line in said.splitlines():
        words = line.replace("%", "").split("  ")
        numbers = [
            word for part in words[1:] for word in part.split() if word.lstrip("-").replace(".", "").isdigit()
        ]
        rows[words[0]] = [float(word) for word in numbers]
    return rows


def test_the_table_says_what_an_upscaler_measures_and_what_noise_costs(stored_and_shards, capsys) -> None:
    upscaler, shards = stored_and_shards
    words = [str(upscaler), str(shards), "--sharpness", "0", "1", "--noise", "2", "4"]
    assert upscaling_table.main(words) == 0
    said = capsys.readouterr().out
    rows = figures(said)
    index = ShardIndex.open(shards)
    for value in (0.0, 1.0):
        one = measured_on(Upscaler.of(read_upscaler(upscaler), "x", value, "cpu"), index, most=1000)
        row = rows[f"sharpness {value:g}"]
        assert row == pytest.approx([one.distance_db, 100 * one.gain, one.loud_db, one.detail], abs=0.06)
    smooth, little, much = (rows[f"sharpness 0{more}"] for more in ("", ", noise of 2 dB", ", noise of 4 dB"))
    assert smooth[3] < little[3] < much[3] and little[0] < much[0]
    assert "% below bicubic" in said and rows["bicubic"][1] == 0


def test_the_bound_holds_and_is_reached_by_nothing_but_what_goes_up_and_down() -> None:
    """A flat conditional mean, and a truth of independent noise around it: the bound's own best picture meets
    it, and independent noise of the same detail lies far above."""
    levels, draw = Levels.of(FINE), torch.Generator().manual_seed(0)
    per_db = 255 / (FINE.ceiling_db - FINE.floor_db)
    flat = torch.full((1, 1, 256, 400), 128.0)
    truth = flat + 5 * per_db * torch.randn(flat.shape, generator=draw)
    wave = torch.tensor([1.0, -1.0]).repeat(200)
    truth_db = float(detail_db(levels, truth))

    def found(made):
        tally = Tally(levels, 2)
        tally.add(made, truth, levels.cells(truth, 2))
        return tally.result()

    mean, alternating = found(flat), found(flat + 2 * per_db * wave)
    bound = upscaling_table.least_distance_db(mean, alternating.detail, truth_db)
    assert alternating.detail == pytest.approx(4 / truth_db, rel=1e-3)
    assert bound <= alternating.distance_db * 1.001 and alternating.distance_db < 1.01 * bound
    noise = found(flat + 5 * alternating.detail * per_db * torch.randn(flat.shape, generator=draw))
    assert noise.detail == pytest.approx(alternating.detail, rel=0.02)
    assert noise.distance_db > 1.1 * bound
    assert upscaling_table.least_distance_db(mean, 0.0, truth_db) == pytest.approx(mean.distance_db)


def test_generated_clips_are_heard_in_every_way(stored_and_shards, tmp_path, capsys) -> None:
    upscaler, shards = stored_and_shards
    draw = np.random.default_rng(0)
    for number in range(3):
        image = draw.integers(1, 200, (1, CODEC.bands, CODEC.frames), dtype=np.uint8)
        Image.fromarray(CODEC.to_rgb(image)).save(tmp_path / f"clip-{number}.png")
        recipe = {"species": [SPECIES[0]]} if number else {"species": list(SPECIES[:2])}
        (tmp_path / f"clip-{number}.json").write_text(json.dumps(recipe))
    taken = upscaled_clips.generated(tmp_path, CODEC, 10)
    assert [name for name, _, _ in taken] == ["clip-1", "clip-2"], "of two species nobody is right"
    assert np.array_equal(taken[1][2], image)
    words = [str(tmp_path), str(upscaler), str(shards), "--split", "validation", "--no-judge"]
    assert upscaled_clips.main(words) == 0
    rows = figures(capsys.readouterr().out)
    assert rows["recordings, fine codec"] == [0, 0, 1]
    names = ("coarse", "bicubic", "sharpness 0", "sharpness 0.5", "sharpness 1")
    made = [rows[f"generated, {name}"] for name in names]
    assert all(len(row) == 3 and row[0] > 0 for row in made)
    assert len({tuple(row) for row in made}) > 2, "the ways differ"
