"""grid: clips over any two settings of generate, side by side on one page; run again, it resumes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from birdsd.diffusion.generation import generate as generation
from birdsd.diffusion.generation.generate import Clip
from birdsd.diffusion.generation.sampling import network_steps
from birdsd.evaluation.grid_judgement import GridJudgement, judge_cells
from birdsd.evaluation.judges import Sound
from birdsd.jobs_api import Outcome
from birdsd.pages import grid as grid_page
from birdsd.pages.media import AudioClip
from birdsd.runs.models.loading import load_model
from birdsd.schema import GridConfig
from birdsd.sound.audio.levels import fitted_line
from birdsd.studies import grid as axes
from birdsd.studies.grid import Cell, Grid


def run(config: GridConfig) -> Outcome:
    """Generate the missing cells, model by model, and the page with all of them."""
    grid = Grid.of(config)
    commands = [axes.command(cell.settings) for cell in grid.cells]
    out = Path(config.out)
    made: dict[tuple[int, int], tuple[list[AudioClip], list[Clip]]] = {}
    with tqdm(total=sum(map(_steps, grid.cells)), unit="step", disable=None) as bar:
        for key in dict.fromkeys(cell.model_key for cell in grid.cells):
            cells = [cell for cell in grid.cells if cell.model_key == key]
            model = load_model(cells[0].settings)
            for cell in cells:
                before = bar.n
                clips = generation.generate(
                    model, cell.request, out / "clips", keep=True, progress=bar.update
                )
                bar.update(before + _steps(cell) - bar.n)  # for clips that existed already
                made[cell.place] = (
                    [AudioClip.read(model.heard_codec, x.picture, x.sound, x.prompt) for x in clips],
                    clips,
                )
    heard = judge_cells([_sounds(*made[cell.place]) for cell in grid.cells])
    shown = []
    for number, (cell, command) in enumerate(zip(grid.cells, commands, strict=True)):
        clips = made[cell.place][0]
        if heard.cells:
            pairs = zip(clips, heard.cells[number], strict=True)
            clips = [replace(clip, verdict=verdict) for clip, verdict in pairs]
        shown.append(grid_page.Cell(cell.column, cell.row, command, clips, heard.of(number)))
    page = grid_page.write_grid_page(out / "grid.html", grid_page.GridData(
        axes.axis_name(grid.x.key), [axes.value_name(grid.x.key, value) for value in grid.x.values],
        axes.axis_name(grid.y.key) if grid.y else "",
        [axes.value_name(grid.y.key, value) for value in grid.y.values] if grid.y else [""],
        shown, axes.fixed_settings(config, grid), heard.judge, heard.remark,
    ))  # fmt: skip
    return _outcome(grid, [made[cell.place][1] for cell in grid.cells], commands, page, heard)


def _sounds(shown: list[AudioClip], clips: list[Clip]) -> list[Sound]:
    """The clips as a judge takes them; without a species where the prompt names none or several."""
    return [
        Sound(clip.sound.stem, one.waveform, one.rate_hz, clip.species[0] if len(clip.species) == 1 else None)
        for one, clip in zip(shown, clips, strict=True)
    ]


def _steps(cell: Cell) -> int:
    request = cell.request
    return request.batches * network_steps(request.scheduler, {}, request.steps, request.skipped_steps())


def _outcome(
    grid: Grid, clips: list[list[Clip]], commands: list[str], page: Path, heard: GridJudgement
) -> Outcome:
    cells = [
        {
            "x": grid.x.values[cell.column],
            "y": grid.y.values[cell.row] if grid.y else None,
            "command": command,
            "clips": [clip.to_json() for clip in made],
            "judge": heard.to_json(number),
        }
        for number, (cell, command, made) in enumerate(zip(grid.cells, commands, clips, strict=True))
    ]
    kept = sum(all(not clip.made for clip in made) for made in clips)
    facts = {
        "page": str(page), "cells": cells, "nothing_to_do": kept == len(cells), "judge": heard.judge or None,
        "no_judge": heard.remark,
    }  # fmt: skip
    before = f", {kept} of them already existed" if kept else ""
    louder = fitted_line([clip.gain_db for made in clips for clip in made])
    title = f"{len(cells)} cells{before}; report: {page}"
    return Outcome("\n".join(filter(None, [title, louder, *_judged(grid, heard)])), facts)


def _judged(grid: Grid, heard: GridJudgement) -> list[str]:
    """A line for each cell with clips that the judge could name."""
    lines = [heard.remark]
    for number, cell in enumerate(grid.cells):
        if verdict := heard.of(number):
            x = f"{grid.x.key}={grid.x.values[cell.column]}"
            y = f" {grid.y.key}={grid.y.values[cell.row]}" if grid.y else ""
            lines.append(f"  {x}{y}: {verdict}")
    return [f"{heard.judge}:", *lines[1:], lines[0]] if heard.judge else lines
