"""scene: prose, a table or a distribution -> soundscapes with measured labels; run again, it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from birdsd.jobs_api import Outcome
from birdsd.runs.share import ArrayShare
from birdsd.scenes.canvas.job import is_canvas, make_canvases
from birdsd.scenes.compose import recipe
from birdsd.scenes.compose.batch import Made, numbered, refused_lines, write_manifest
from birdsd.scenes.compose.source import check_asked, scenes_of
from birdsd.scenes.compose.stage import set_up, with_recipe
from birdsd.scenes.compose.tables import came_out_text
from birdsd.scenes.picture import draw_timeline
from birdsd.schema import SceneConfig
from birdsd.sharing import beside_others


def run(config: SceneConfig) -> Outcome:
    """Make this part's scenes that are not there yet, each published whole."""
    out, part = Path(config.out), ArrayShare.parse(config.part)
    if is_canvas(config):
        done, lines = make_canvases(config)
        return _outcome(out, done, "", lines)
    if config.recipe:
        return _again(config, out)
    check_asked(config)  # before a model is loaded
    stage = set_up(config)
    scenes = scenes_of(config, stage.vocabulary, stage.longest_s)
    name_of = numbered(scenes.name, config.count)
    with beside_others(out, str(part)):
        done = stage.batch.make(part.share(range(config.count)), scenes.of, name_of)
    if config.count > 1:
        return _outcome(out, done, "")
    rate_hz, lines = stage.batch.composer.rate_hz, []
    if config.picture and done.made:
        lines = [f"as asked for: {draw_timeline(scenes.placed(rate_hz), out / f'{done.made[0]}.asked.png')}"]
    return _outcome(out, done, scenes.told(rate_hz), lines)


def _again(config: SceneConfig, out: Path) -> Outcome:
    """Make the scene of a recipe again: on the same kind of machine, to the byte."""
    path = Path(str(config.recipe))
    scene, told = recipe.read_recipe(path)
    stage = set_up(with_recipe(config, told))
    recipe.check_identities(path, told, stage.batch.identities)
    done = Made([told["name"]], last=stage.batch.make_one(scene, told["name"], told))
    write_manifest(out)
    return _outcome(out, done, "")


def _outcome(out: Path, done: Made, understood: str, further: Sequence[str] = ()) -> Outcome:
    kept = f", {len(done.kept)} already existed" if done.kept else ""
    lines = [f"{len(done.made)} scenes made in {out}{kept}", *refused_lines(done), *further]
    if understood:
        lines = [understood, "", *lines]
    if done.last is not None and len(done.made) == 1:
        lines += ["", came_out_text(done.last)]
    facts = {
        "out": str(out), "made": done.made, "kept": done.kept,
        "refused": [{"scene": name, "why": why} for name, why in done.refused],
        "nothing_to_do": not done.made and not done.refused,
    }  # fmt: skip
    return Outcome("\n".join(lines), facts)
