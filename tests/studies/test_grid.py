"""An X/Y grid: its axes, its cells, a page, and a command for each cell that makes the same bytes."""

from __future__ import annotations

import json
import shlex

import pytest

from birdsd import config
from birdsd.errors import BadValue, Mismatch, NotSet, UnknownName
from birdsd.studies.grid import Axis, Grid, command, value_name
from tests.support.errors import refuses
from tests.support.untrained import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("runs") / "base-1" / "export")


def asked(*settings):
    return config.compose("grid", ["prompt=an American Robin", *settings])


def run(*settings):
    from birdsd.jobs import grid

    return grid.run(asked(*settings))


def test_axes_are_settings_with_values():
    assert Axis.parse("guidance=1, 3,5,3", "x") == Axis("guidance", ("1", "3", "5"))
    assert Axis.parse('prompt=["a robin, singing", "a wren"]', "x").values == ("a robin, singing", "a wren")
    assert Axis.parse("negative_prompt=[null, rain]", "y").values == ("", "rain")
    for text, value, offer, kind in (
        ("guidence=1,2", "guidence", "'guidance'", UnknownName),
        ("guidance", "x='guidance'", "guidance=1,3,5", BadValue),
        ("guidance=", "x='guidance='", "guidance=1,3,5", NotSet),
        ("machine=smoke", "machine", "birdsd run generate --keys", UnknownName),
        ("out=a,b", "out", "birdsd run generate --keys", UnknownName),
    ):
        with refuses(value, offer, kind=kind):
            Axis.parse(text, "x")


def test_cells_have_the_values_of_both_axes(tmp_path):
    grid = Grid.of(asked("run=r", "x=guidance=1,3", "y=scheduler=ddim,euler,heun"))
    assert [cell.place for cell in grid.cells] == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    cell = grid.cells[3]
    assert (cell.settings.guidance, cell.settings.scheduler, cell.settings.run) == (3.0, "euler", "r")
    assert cell.request.guidance == 3.0 and cell.request.scheduler == "euler"
    single = Grid.of(asked("run=r", "x=seed=1,2,3"))
    assert [cell.request.seed for cell in single.cells] == [1, 2, 3] and single.y is None


def test_prompts_additions_and_nothing_can_be_values():
    grid = Grid.of(asked("run=r", 'x=prompt=["a, b", "[c] d"]', "y=add=none,lora:0.5,lora + token:0.3"))
    assert [cell.request.prompts for cell in grid.cells[:2]] == [("a, b",), ("[c] d",)]
    assert [cell.settings.add for cell in grid.cells[::2]] == [[], ["lora:0.5"], ["lora", "token:0.3"]]
    assert len({cell.model_key for cell in grid.cells}) == 3
    starts = Grid.of(asked("run=r", "x=init=none,a.wav", "strength=null"))
    assert [cell.request.init for cell in starts.cells] == [None, "a.wav"]
    assert [value_name("add", v) for v in ("none", "runs/x/export:0.5", "a + b:2")] == [
        "none", "x at 0.5", "a + b at 2"
    ]  # fmt: skip


def test_what_cannot_be_a_grid_is_refused_before_anything_is_made(tmp_path):
    for settings, value, offer, kind in (
        ((), "x", "x=", NotSet),
        (("x=steps=1,2", "y=steps=3"), "steps", "", Mismatch),
        (("x=steps=1,zwei",), "steps=zwei", "", BadValue),
        (("x=steps=1,0",), "steps=0", "", BadValue),
        (("x=scheduler=ddim,eulr",), "eulr", "'euler'", UnknownName),
        (("x=strength=0.1,0.5",), "init", "", NotSet),
        (("x=seed=" + ",".join(map(str, range(60))), "count=2"), "120 clips", "100", BadValue),
    ):
        with refuses(value, offer, kind=kind):
            Grid.of(asked("run=r", *settings))


def test_a_cell_is_made_again_by_its_command_to_the_byte(model, tmp_path):
    from birdsd.jobs import generate

    settings = [f"run={model}", f"out={tmp_path / 'grid'}", "steps=2", "x=guidance=1,4", "y=seed=0,7"]
    told = run(*settings, 'prompt=an American (Robin:1.2), it\'s "loud"').facts
    assert len(told["cells"]) == 4 and not told["nothing_to_do"]
    cell = told["cells"][3]
    assert (cell["x"], cell["y"]) == ("4", "7")
    words = shlex.split(cell["command"])
    assert words[:3] == ["birdsd", "run", "generate"]
    again = generate.run(config.compose("generate", [*words[3:], f"out={tmp_path / 'again'}"])).facts
    for kind in ("picture", "sound", "table", "recipe"):
        first, second = cell["clips"][0][kind], again["clips"][0][kind]
        with open(first, "rb") as one, open(second, "rb") as two:
            assert one.read() == two.read()
    json.dumps(told)


def test_what_is_as_usual_is_not_in_the_command(model, monkeypatch):
    grid = Grid.of(asked(f"run={model}", "x=guidance=3,4"))
    words = shlex.split(command(grid.cells[0].settings))
    assert words == ["birdsd", "run", "generate", f"run={model}", "prompt=an American Robin"]
    grid = Grid.of(asked(f"run={model}", "x=guidance=3,4", "machine=laptop-4gb", "machine.device=cpu"))
    words = shlex.split(command(grid.cells[1].settings))
    assert words[-3:] == ["guidance=4.0", "machine=laptop-4gb", "machine.device=cpu"]


def test_a_grid_goes_on_where_it_was(model, tmp_path):
    settings = [f"run={model}", f"out={tmp_path}", "steps=2"]
    first = run(*settings, "x=guidance=1,2").facts
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    wider = run(*settings, "x=guidance=1,2,3")
    assert "3 cells, 2 of them " in wider.text
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    assert before.items() <= after.items() and len(after) == len(before) + 4
    assert first["page"] == wider.facts["page"]
    assert run(*settings, "x=guidance=1,2,3").facts["nothing_to_do"]


def test_models_are_loaded_once_each(model, tmp_path, monkeypatch):
    from birdsd.jobs import grid as job

    other = make_model(tmp_path / "other" / "export", seed=1)
    loaded, load = [], job.load_model
    monkeypatch.setattr(job, "load_model", lambda settings: loaded.append(settings.run) or load(settings))
    told = run(f"out={tmp_path / 'g'}", "steps=1", f"x=run={model},{other}", "y=guidance=1,2").facts
    assert loaded == [str(model), str(other)]
    pictures = {cell["clips"][0]["picture"] for cell in told["cells"]}
    assert len(pictures) == 4
