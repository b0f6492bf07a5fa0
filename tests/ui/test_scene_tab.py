"""The scene and the animation tab of `birdsd ui`: files and label tables, loops, one canvas, animations; they
make what `birdsd run scene` makes."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import pytest
import soundfile

from birdsd.errors import BadValue, Mismatch, NotFound, NotSet, UnknownName
from birdsd.jobs_api import load_job
from birdsd.scenes.editing import SPECIES
from birdsd.scenes.store import write_scene
from birdsd.schema import SceneConfig
from birdsd.sound.labels.annotation import Label
from birdsd.sound.labels.audacity import read_audacity, write_audacity
from birdsd.sound.labels.raven import write_raven
from birdsd.ui.scenes import Settings, TableOptions
from tests.support.browser import browser
from tests.support.errors import refuses
from tests.support.remarks import remarked
from tests.support.songs_of_scenes import make_pool
from tests.support.tiny import CODEC
from tests.ui.test_scenes import PROSE, QUICK, _open, _rows, _saved, _tab
from tests.ui.test_scenes import desk as desk
from tests.ui.test_scenes import served as served
from tests.ui.test_scenes import session as session
from tests.ui.test_ui import needs_browser, needs_gradio

AFTERNOON = [Label("American Robin", 1.0, 1.4, 2000.0, 6000.0), Label("Kakapo", 2.0, 2.5, 300.0, 900.0)]


@pytest.fixture
def table(tmp_path) -> Path:
    write_raven(tmp_path / "afternoon.txt", AFTERNOON)
    return tmp_path / "afternoon.txt"


def test_a_loop_is_asked_for_and_taken_back(desk):
    plain = desk.understand(PROSE).scene
    looped = desk.understand(PROSE, 0, "", True).scene
    assert (plain.loop, plain.duration_s) == (False, None) and looped.loop
    rows = _rows(desk, plain)
    again = desk.edit(plain, *rows, "", 0, "", True).scene
    assert again.loop and again.duration_s == looped.duration_s > 2
    assert desk.edit(again, *rows, "9", 0).scene.loop, "an edit elsewhere leaves it"
    back = desk.edit(again, *rows, "", 0, "", False).scene
    assert (back.loop, back.duration_s) == (False, None)


def test_a_loop_confirmed_in_the_mix_is_made_as_the_job_makes_it(desk, tmp_path):
    scene = desk.understand("an American Robin", 0, "", True).scene
    made = desk.make(scene, Settings(2, 1.0, False, 3, in_mix=True))
    told = json.loads((made.folder / "recipe.json").read_text())
    assert told["settings"]["confirm"] == "mix" and told["settings"]["tries"] == 3 and told["scene"]["loop"]
    assert desk.make(scene, Settings(2, 1.0, False, 3)).folder != made.folder
    model = str(desk.session.config.run)
    load_job("scene")(
        SceneConfig(
            run=model, scene=str(made.folder / "scene.yaml"), confirm="mix", judge="none", tries=3, steps=2,
            guidance=1.0, format="wav", out=str(tmp_path), picture=False,
        )
    )  # fmt: skip
    assert next(tmp_path.glob("*/*.wav")).read_bytes() == made.sound.read_bytes()


def test_scene_files_are_opened_as_they_were_written(desk, tmp_path):
    scene = desk.understand(PROSE, "5", "", True).scene
    for name in ("mine.yaml", "mine.csv"):
        shown = desk.open(write_scene(tmp_path / name, scene), TableOptions(), "3")
        assert shown.scene == scene and shown.scene.seed == 5 and shown.scene.loop
        assert desk.parts(tmp_path / name) == {}
    with refuses("mine.csv", kind=Mismatch):
        desk.open(tmp_path / "mine.csv", TableOptions(environment="rain"))
    (tmp_path / "broken.yaml").write_text("events: [")
    with refuses("broken.yaml"):
        desk.open(tmp_path / "broken.yaml", TableOptions())


def test_label_tables_are_sung_anew_by_the_same_birds_and_by_others(desk, table):
    assert desk.parts(table) == {"American Robin": "American Robin", "Kakapo": "Eurasian Wren"}
    assert desk.parts(table, others=True)["American Robin"] == "Eurasian Wren"
    with refuses("Kakapo", kind=UnknownName):
        desk.open(table, TableOptions())
    shown = desk.open(table, TableOptions({"Kakapo": "Eurasian Wren"}, "rain"), "3")
    assert [row[SPECIES] for row in shown.rows.events] == ["American Robin", "Eurasian Wren"]
    assert [one.environment for one in shown.scene.backgrounds] == ["rain"] and shown.scene.seed == 3
    assert remarked(shown.notes, "another-sings").facts == {"bird": "Eurasian Wren", "part": "Kakapo"}
    write_audacity(table, AFTERNOON[:1])
    assert len(desk.open(table, TableOptions()).scene.events) == 1


def test_a_canvas_is_what_the_job_makes_and_its_labels_are_requests(desk, tmp_path):
    scene = desk.understand(PROSE).scene
    title = desk.title(scene)
    shares: list[float] = []
    made = desk.make_canvas(desk.canvas_of(scene), title, QUICK, lambda share, what: shares.append(share))
    assert shares == sorted(shares) and shares[-1] == 1.0 and len(shares) > 3
    model = str(desk.session.config.run)
    write_scene(tmp_path / "scene.yaml", scene)
    load_job("scene")(
        SceneConfig(
            run=model, scene=str(tmp_path / "scene.yaml"), way="canvas", steps=2, guidance=1.0, format="wav",
            out=str(tmp_path / "job"), picture=False,
        )
    )  # fmt: skip
    assert next((tmp_path / "job").glob("*/*.wav")).read_bytes() == made.sound.read_bytes()
    assert all(one.label.startswith("asked for") for one in read_audacity(made.table))
    with zipfile.ZipFile(desk.archive(made, scene)) as file:
        held = {Path(name).name for name in file.namelist()}
    assert {"scene.yaml", "scene.csv", "canvas.json", made.sound.name, made.table.name} <= held
    # Nothing of it is judged, and it hears no recordings: said, not ignored.
    make_pool(tmp_path / "pool")
    with refuses("pool", kind=Mismatch):
        desk.make_canvas(desk.canvas_of(scene), title, Settings(2, 1.0, pool=str(tmp_path / "pool")))


def test_an_animation_of_rows_and_what_cannot_be_one(desk):
    rows = desk.first_animation()
    assert [row[1] for row in rows] == ["an American Robin", "a Eurasian Wren"]
    canvas = desk.animation([*rows, ["", ""]], "", "4", False)
    assert (canvas.duration_s, canvas.seed, len(canvas.marks)) == (5.0, 4, 2)
    evenly = desk.animation([["", one[1]] for one in rows], "3", 0, True)
    assert [mark.at_s for mark in evenly.marks] == [0.0, 1.5] and evenly.loop
    for given, duration, kind, named in (
        ([["", ""]], "", NotSet, "prompts"), ([["1", ""]], "", NotSet, "row 1"),
        ([["0", "a wren"], ["", "a robin"]], "", NotSet, "a robin"),
        ([["soon", "a wren"]], "", BadValue, "soon"), ([["nan", "a wren"]], "", BadValue, "nan"),
        ([["5", "a wren"], ["5", "a robin"]], "", BadValue, "5"), (rows, "2", BadValue, "5 s"),
        (rows, "100000000", BadValue, "1e+08"),
    ):  # fmt: skip
        with refuses(named, kind=kind):
            desk.animation(given, duration, 0, False)


@needs_gradio
def test_the_tab_opens_files_and_says_why_not_without_the_folder_of_the_upload(desk, table):
    from birdsd.ui.scene_tab import _Tab

    tab = _Tab(desk, desk.understand(PROSE))
    of_table, singers, scene, beside, events, *_ = tab._open(str(table), False, "", "", "2", "", False)
    assert of_table.visible and singers[1] == ["Kakapo", "Eurasian Wren"] and scene.seed == 2
    assert [row[SPECIES] for row in events if row[SPECIES]] == ["American Robin", "Eurasian Wren"]
    assert "of Kakapo" in beside and len(scene.events) == 2
    looped = write_scene(table.parent / "looped.yaml", desk.understand(PROSE, "5", "", True).scene)
    of_table, *_, seed, loop = tab._open(str(looped), False, "", "", "0", "", False)
    assert not of_table.visible and (seed, loop) == ("5", True)
    other = tab._sing_anew(str(table), [["American Robin", "Great <b>Auk"]], "", "", "0", "", False)[1]
    assert 'role="alert"' in other and "<b>Auk" not in other and "Great" in other
    for name, content in (("sound.wav", b"RIFF\0\1\2\3" * 9), ("nothing.txt", b""), ("two.txt", b"\xff\xfe")):
        path = table.parent / name
        path.write_bytes(content)
        said = tab._open(str(path), False, "", "", "0", "", False)
        assert 'role="alert"' in said[3] and name in said[3] and str(table.parent) not in said[3]


def test_no_file_is_not_opened(desk, tmp_path):
    with refuses("gone.yaml", kind=NotFound):
        desk.open(tmp_path / "gone.yaml", TableOptions())


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_the_tabs_in_a_browser(served, session, table, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(served.local_url)
        _tab(page, "Scene")
        page.wait_for("!!document.querySelector('#scene-make')?.offsetParent")
        _open(page, "Or open a scene file")
        page.wait_for("!!document.querySelector('#scene-file input[type=file]')")
        root = page.call("DOM.getDocument")["root"]["nodeId"]
        found = page.call("DOM.querySelector", nodeId=root, selector="#scene-file input[type=file]")
        page.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(table)])
        page.wait_for("document.querySelector('#scene-beside').textContent.includes('the part of Kakapo')")
        page.wait_for("document.querySelector('#scene-singers').textContent.includes('Eurasian Wren')")
        page.click("#scene-loop input")
        page.wait_for("document.querySelector('#scene-beside').textContent.includes('seamless loop')")
        _open(page, "How it is made")
        page.click("#scene-way label:nth-of-type(2)")
        page.wait_for("!document.querySelector('#scene-judged')?.offsetParent")
        page.click("#scene-make")
        page.wait_for("document.querySelectorAll('#scene-figure .box.asked').length >= 2")
        duration_s = page.wait_for("document.querySelector('#scene-figure audio').duration || 0")
        assert page.run("document.querySelectorAll('#scene-figure [data-measured=false]').length") == 1
        _beside_each_other(page, tmp_path / "scene")
        page.run("document.querySelector('#scene-make').style.marginTop = '-160px'")
        page.wait_for(f"{_OVERLAPS}.length > 0")  # it would be seen
        page.run("document.querySelector('#scene-make').style.marginTop = ''")
        samples, _ = soundfile.read(_saved(page, tmp_path / "wav", "#scene-wav", ".wav"))
        assert len(samples) / CODEC.rate_hz == pytest.approx(duration_s, abs=0.1)
        saved = read_audacity(_saved(page, tmp_path / "labels", "#scene-table", ".txt"))
        assert any("Eurasian Wren" in one.label for one in saved)

        _tab(page, "Animation")
        page.wait_for("!!document.querySelector('#animation-make')?.offsetParent")
        duration = "#animation-duration input, #animation-duration textarea"
        page.type_into(duration, "1")
        page.wait_for(f"document.querySelector('{duration}').value === '1'")
        page.click("#animation-make")
        page.wait_for(
            "document.querySelector('#animation-problems [role=alert]')?.textContent.includes('5 s')"
        )
        page.type_into(duration, "5")
        page.click("#animation-make")
        page.wait_for("!!document.querySelector('#animation-figure audio')")
        page.wait_for("!document.querySelector('#animation-problems [role=alert]')")
        page.wait_for(
            "document.querySelector('#animation-figure img.moving')?.naturalWidth > 0"
            " || document.querySelector('#animation-figure video.moving')?.videoWidth > 0"
        )
        _beside_each_other(page, tmp_path / "animation")
        gif = _saved(page, tmp_path / "gif", "#animation-gif", ".gif")
        assert gif.read_bytes()[:6] == b"GIF89a"
        with zipfile.ZipFile(_saved(page, tmp_path / "zip", "#animation-zip", ".zip")) as file:
            (rows,) = [name for name in file.namelist() if name.endswith(".asked.csv")]
            told = list(csv.DictReader(file.read(rows).decode().splitlines()))
        assert [(row["prompt"], row["then"]) for row in told] == [("an American Robin", "a Eurasian Wren")]
        assert page.errors() == []


# Fields, buttons, tables and headings that are in sight, and of which none lies in another.
_OVERLAPS = """(() => {
const kinds = 'input:not([type=range]),textarea,button,table,audio,video,h1,h2,.plot';
const all = [...document.querySelectorAll(kinds)]
  .filter(e => e.offsetParent && e.getBoundingClientRect().width > 2 && e.getBoundingClientRect().height > 2
    && !e.closest('.plot .field, [aria-hidden=true], .table-wrap, .visually-hidden')
    && getComputedStyle(e).opacity > 0 && getComputedStyle(e).position !== 'absolute');
const boxes = all.map(e => [e, e.getBoundingClientRect()]);
const found = [];
for (const [a, r] of boxes) for (const [b, s] of boxes)
  if (a !== b && !a.contains(b) && !b.contains(a)
      && Math.min(r.right, s.right) - Math.max(r.left, s.left) > 2
      && Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 2)
    found.push([a.outerHTML.slice(0, 80), b.outerHTML.slice(0, 80)]);
return found})()"""
# What is cut off, and must be scrolled to: only tables and long spectrograms may be.
_CUT_OFF = """[...document.querySelectorAll('.form, .row, .block, .accordion, .birdsd')]
  .filter(e => e.offsetParent && e.scrollWidth > e.clientWidth + 2 && !e.querySelector('table, .long'))
  .map(e => [e.scrollWidth, e.clientWidth, e.textContent.trim().slice(0, 80)])"""


def _beside_each_other(page, name: Path) -> None:
    """In a wide and in a narrow window nothing lies over anything else, or reaches over the edge."""
    for width in (400, 1280):
        page.screenshot(name.with_name(f"{name.name}-{width}.png"), width)
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.run(_OVERLAPS) == [] and page.run(_CUT_OFF) == [], width
