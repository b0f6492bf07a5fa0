"""The scene tab and the prompt book of `birdsd ui`: without a browser, and in a headless Chromium."""

from __future__ import annotations

import csv
import io
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.errors import BadValue, NotFound, NotSet, UnknownName
from birdsd.jobs_api import load_job
from birdsd.scenes.editing import ENVIRONMENT, LEVEL, LOUDNESS, ONSET, SPECIES
from birdsd.scenes.store import from_yaml, read_scene
from birdsd.schema import SceneConfig
from birdsd.sound.labels.audacity import read_audacity
from birdsd.sound.labels.raven import read_raven
from birdsd.ui import server
from birdsd.ui.scenes import SceneDesk, Settings
from birdsd.ui.session import UiSession
from tests.support.browser import browser
from tests.support.errors import refuses
from tests.support.songs_of_scenes import make_pool
from tests.support.tiny import CODEC
from tests.support.untrained import make_model
from tests.ui.test_ui import needs_browser, needs_gradio
from tests.ui.test_ui import served as served

PROSE = "an American Robin in loud rain followed by a Eurasian Wren in quiet rain"
QUICK = Settings(steps=2, guidance=1.0, judged=False, tries=2)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_model(folder / "base-1" / "export")
    return UiSession.open(server.settled(None, ["steps=2", f"out={folder / 'made'}"], folder))


@pytest.fixture(scope="module")
def desk(session):
    return SceneDesk(session)


@pytest.fixture(scope="module")
def told():
    """(share, what is being done) as the scene was made."""
    return []


@pytest.fixture(scope="module")
def made(desk, told):
    scene = desk.understand(PROSE).scene
    return scene, desk.make(scene, QUICK, lambda share, what: told.append((share, what)))


def test_prose_is_understood_and_what_is_not_is_said(desk):
    assert desk.first_prompt() == PROSE
    shown = desk.understand(PROSE, "3")
    assert shown.sentence == PROSE.replace(" followed by", ", then") and shown.scene.seed == 3
    assert [row[SPECIES] for row in shown.rows.events] == ["American Robin", "Eurasian Wren"]
    assert [row[ENVIRONMENT] for row in shown.rows.backgrounds] == ["rain", "rain"]
    assert shown.duration_s == pytest.approx(1 + 2 * CODEC.clip_s + 2, abs=1.5), (
        "songs are no longer than clips"
    )
    with refuses("'dragon'", kind=UnknownName):
        desk.understand("a dragon in rain")
    with refuses("sentence", PROSE, kind=NotSet):
        desk.understand("  ")
    with refuses("seed is 'x'", kind=BadValue):
        desk.understand(PROSE, "x")


def test_an_environment_of_a_pool_may_be_asked_for(desk, tmp_path):
    make_pool(tmp_path / "pool")
    with refuses("'stream'", kind=UnknownName):
        desk.understand("a Eurasian Wren in a stream")
    shown = desk.understand("a Eurasian Wren in a stream", 0, str(tmp_path / "pool"))
    assert shown.scene.backgrounds[0].source == "pool"
    made = desk.make(shown.scene, Settings(2, 1.0, False, 1, str(tmp_path / "pool")))
    assert {one["licence"] for one in made.labels["trail"] if one["kind"] == "recorded"} == {"CC0"}
    with refuses(str(tmp_path / "nowhere"), kind=NotFound):
        desk.understand("a Eurasian Wren", 0, str(tmp_path / "nowhere"))


def test_a_scene_is_made_once_step_by_step(desk, made, told):
    scene, folder = made
    assert [one["species"] for one in folder.labels["came_out"]] == ["American Robin", "Eurasian Wren"]
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert len({what for _, what in told}) > 2 and len(told) > 6
    sound = folder.sound.read_bytes()
    written = folder.sound.stat().st_mtime_ns
    again: list[float] = []
    assert desk.make(scene, QUICK, lambda share, what: again.append(share)).folder == folder.folder
    assert len(again) == 2 and folder.sound.stat().st_mtime_ns == written
    louder = desk.edit(scene, *_rows(desk, scene, e0={LOUDNESS: "20"}), "", 0).scene
    other = desk.make(louder, QUICK)
    assert other.folder != folder.folder and other.sound.read_bytes() != sound
    assert other.labels["came_out"][0]["snr_db"] == pytest.approx(20, abs=0.1)


def _rows(desk, scene, **changes):
    rows = desk.shown(scene).rows
    events, backgrounds = [list(row) for row in rows.events], [list(row) for row in rows.backgrounds]
    for name, cells in changes.items():
        held = events if name.startswith("e") else backgrounds
        for column, text in cells.items():
            held[int(name[1:])][column] = text
    return events, backgrounds


def test_rows_that_were_edited_are_what_sounds(desk, made):
    scene, _ = made
    rows = _rows(desk, scene, e1={ONSET: "4", SPECIES: "American Robin"}, b1={LEVEL: "-40"})
    asked = desk.edit(scene, *rows, "6", 2).scene
    folder = desk.make(asked, QUICK)
    came = folder.labels["came_out"]
    assert [one["species"] for one in came] == ["American Robin"] * 2
    assert came[1]["onset_s"] == pytest.approx(4, abs=0.01) and folder.labels["duration_s"] == 6
    assert [one["level_db"] for one in folder.labels["backgrounds"]] == [-33, -40]
    found = desk.edit(scene, *_rows(desk, scene, e0={ONSET: "soon"}), "", 0)
    assert found.scene is None and "onset_s is soon" in str(found.problems[0])


def test_the_zip_holds_everything_and_each_part_is_read_back(desk, made, tmp_path):
    scene, folder = made
    path = desk.archive(folder, scene)
    name = folder.folder.name
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        held = {one.removeprefix(f"{name}/") for one in file.namelist()}
        assert all(one.startswith(f"{name}/") for one in file.namelist())
        file.extractall(tmp_path)
    wanted = {
        f"{name}.wav", f"{name}.png", f"{name}.Table.1.selections.txt", "labels.json", "recipe.json",
        "scene.yaml", "scene.csv", "tables/audacity.txt", "tables/came_out.csv", "tables/asked.csv",
        f"tables/{name}.jams", "tables/strong.tsv", "tables/attribution.csv",
    }  # fmt: skip
    assert wanted <= held and sum(one.startswith("stems/event") for one in held) == 2
    place = tmp_path / name
    samples, rate_hz = soundfile.read(place / f"{name}.wav")
    assert rate_hz == CODEC.rate_hz and np.ptp(samples) > 0
    for labels in (
        read_raven(place / f"{name}.Table.1.selections.txt"),
        read_audacity(place / "tables/audacity.txt"),
    ):
        assert [one.label for one in labels] == ["American Robin", "Eurasian Wren"]
    with open(place / "tables" / "came_out.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 2
    assert json.loads((place / "tables" / f"{name}.jams").read_text())["annotations"]
    assert read_scene(place / "scene.yaml") == read_scene(place / "scene.csv") == scene
    # The recipe makes the scene again, to the byte.
    load_job("scene")(SceneConfig(recipe=str(place / "recipe.json"), out=str(tmp_path / "again")))
    again = tmp_path / "again" / name
    for part in (f"{name}.wav", "labels.json", "recipe.json"):
        assert (again / part).read_bytes() == (place / part).read_bytes(), part
    # One that a full disk cut short is written anew.
    path.write_bytes(path.read_bytes()[:100])
    assert zipfile.ZipFile(desk.archive(folder, scene)).testzip() is None


def test_the_book_is_the_models(desk):
    book = desk.book()
    assert book.model == "base-1" and {one.name for one in book.of("species")} == set(
        desk.vocabulary().species
    )


@needs_gradio
def test_what_the_tab_says_is_escaped_and_errors_are_in_the_words_of_user_error(desk):
    from birdsd.ui.scene_tab import _Tab

    tab = _Tab(desk, desk.understand(PROSE))
    scene = tab.first.scene
    beside = tab._understand("a <b>dragon</b> in rain", "0", "")[1]
    assert 'role="alert"' in beside and "<b>dragon" not in beside and "&lt;" in beside
    events, backgrounds = _rows(desk, scene, e0={SPECIES: "<script>x</script>"})
    problem = tab._edit(scene, events, backgrounds, "", "0", "")[1]
    assert "event e0" in problem and "&lt;script&gt;" in problem and "<script>" not in problem
    assert "/nowhere" in tab._edit(scene, *_rows(desk, scene), "", "0", "/nowhere")[1]
    state, beside, shown, places = tab._edit(scene, *_rows(desk, scene, e0={ONSET: "2"}), "", "0", "")
    assert state.event("e0").onset_s == 2.0 and shown[0][ONSET] == "2" and "Understood as" in beside
    assert len(places) == 3 and not any(places[-1]), "an empty row to begin a background in"


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_the_scene_tab_in_a_browser(served, session, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(served.local_url)
        _tab(page, "Scene")
        page.type_into("#scene-prose textarea", "a dragon in rain")
        page.click("#scene-read")
        page.wait_for("document.querySelector('#scene-beside [role=alert]')?.textContent.includes('dragon')")
        page.type_into("#scene-prose textarea", PROSE)
        page.click("#scene-read")
        page.wait_for("document.querySelector('#scene-beside')?.textContent.includes('then a Eurasian Wren')")

        # A cell that cannot be is said beside the table, and a correct one is taken.
        _edit_cell(page, 0, ONSET, "soon")
        page.wait_for(
            "document.querySelector('#scene-beside [role=alert]')?.textContent.includes('onset_s is soon')"
        )
        _edit_cell(page, 0, ONSET, "2")
        page.wait_for("!document.querySelector('#scene-beside [role=alert]')")
        _edit_cell(page, 1, LOUDNESS, "20")
        page.wait_for("document.querySelector('#scene-events').textContent.includes('20 dB SNR')")

        _open(page, "How it is made")
        page.click("#scene-judged input")
        page.click("#scene-make")
        page.wait_for("document.querySelectorAll('#scene-figure .box').length === 2")
        duration_s = page.wait_for("document.querySelector('#scene-figure audio').duration || 0")
        assert duration_s > 3
        # A click on a box plays from its onset, one on the picture from there.
        onset_s = float(page.run("document.querySelectorAll('#scene-figure .box')[1].dataset.at"))
        page.run("document.querySelectorAll('#scene-figure .box')[1].id = 'second'")
        page.click("#second")
        page.wait_for(f"document.querySelector('#scene-figure audio').currentTime >= {onset_s}")
        assert page.run("document.querySelector('#scene-figure audio').currentTime") < onset_s + 1.5
        _click_at(page, "#scene-figure .field", 0.1, 0.5)
        page.wait_for(
            f"document.querySelector('#scene-figure audio').currentTime < {min(onset_s, 0.5 * duration_s)}"
        )
        words = page.run("document.querySelector('#scene-figure').textContent")
        assert "American Robin" in words and "Eurasian Wren" in words and "2.00" in words

        with zipfile.ZipFile(
            io.BytesIO(_saved(page, tmp_path / "zip", "#scene-zip", ".zip").read_bytes())
        ) as file:
            scene = from_yaml(
                file.read(next(one for one in file.namelist() if one.endswith("scene.yaml"))).decode()
            )
            assert scene.event("e0").onset_s == 2.0 and scene.event("e1").snr_db == 20
        samples, _ = soundfile.read(_saved(page, tmp_path / "wav", "#scene-wav", ".wav"))
        assert len(samples) / CODEC.rate_hz == pytest.approx(duration_s, abs=0.1)

        _tab(page, "What to ask for")
        page.wait_for("document.querySelector('#book')?.textContent.includes('What it cannot do')")
        page.screenshot(tmp_path / "book.png")
        asked = [url for url in page.requests() if not url.startswith(("data:", "blob:", "about:"))]
        assert asked and all(url.startswith(served.local_url) for url in asked), asked
        assert page.errors() == []


def _tab(page, title: str) -> None:
    tabs = "[...document.querySelectorAll('button[role=tab]')]"
    found = f"{tabs}.find(e => e.textContent.trim() === {json.dumps(title)})"
    page.wait_for(f"!!{found}")
    page.run(f"{found}.click()")


def _open(page, title: str) -> None:
    page.run(
        f"[...document.querySelectorAll('button')].find(e=>e.textContent.includes({json.dumps(title)})).click()"
    )


def _edit_cell(page, row: int, column: int, text: str) -> None:
    """Double-click a cell, replace what stands in it, and press Enter, as a user does."""
    cell = f"#scene-events [data-row='{row}'][data-col='{column}']"
    page.wait_for(f"!!document.querySelector({json.dumps(cell)})")
    page.click(cell)
    page.click(cell)
    _press(page, "Enter", 13)
    page.wait_for("['INPUT', 'TEXTAREA'].includes(document.activeElement.tagName)")
    page.run("document.activeElement.select()")
    page.call("Input.insertText", text=text)
    _press(page, "Enter", 13)


def _press(page, key: str, code: int) -> None:
    for kind in ("keyDown", "keyUp"):
        page.call(
            "Input.dispatchKeyEvent",
            type=kind,
            key=key,
            code=key,
            windowsVirtualKeyCode=code,
            text="\r" if kind == "keyDown" else "",
        )


def _click_at(page, selector: str, across: float, down: float) -> None:
    x, y = page.run(
        f"(r => [r.x + {across} * r.width, r.y + {down} * r.height])"
        f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


def _saved(page, folder: Path, button: str, ending: str) -> Path:
    """Click a button that saves, and wait for the file."""
    folder.mkdir()
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.click(button)
    end = time.monotonic() + 30
    while not (found := [path for path in folder.iterdir() if path.suffix == ending]):
        assert time.monotonic() < end, f"{button} saved nothing"
        time.sleep(0.05)
    return found[0]
