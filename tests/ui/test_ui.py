"""`birdsd ui`: what it serves, to whom, and the page itself in a headless Chromium."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import math
import os
import socket
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import soundfile

from birdsd.cli.main import main
from birdsd.cli.models import VERBS
from birdsd.diffusion.generation.generate import Recipe
from birdsd.errors import BadValue, NotFound, UnknownName, Unsupported
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.labels.load import read_raven
from birdsd.ui import server
from birdsd.ui.session import FormValues, UiSession
from tests.support.browser import CHROMIUM, browser
from tests.support.errors import refuses
from tests.support.tiny import CODEC
from tests.support.untrained import make_model


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_model(folder / "base-1" / "export")
    return folder


@pytest.fixture(scope="module")
def session(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    return UiSession.open(server.settled(None, ["steps=2", f"out={out}"], runs))


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    time_s = np.arange(24000) / 16000
    path = tmp_path_factory.mktemp("recordings") / "my tone.wav"
    write_wav(path, (0.3 * np.sin(2 * math.pi * (1000 + 900 * time_s) * time_s)).astype(np.float32), 16000)
    return path


def test_the_newest_finished_model_is_taken(runs, tmp_path):
    assert server.newest_model(runs) == runs / "base-1" / "export"
    for number, name in enumerate(("a", "b", "c")):
        folder = tmp_path / name / "export"
        folder.mkdir(parents=True)
        if name != "c":  # an autoencoder, or a run that has not finished
            (folder / "model_index.json").write_text("{}")
        os.utime(folder, (1000 - number, 1000 - number))
    assert server.newest_model(tmp_path) == tmp_path / "a" / "export"
    with refuses(str(tmp_path / "nowhere"), "birdsd run train", kind=NotFound):
        server.newest_model(tmp_path / "nowhere")


def test_settings_are_those_of_generate(runs):
    asked = server.settled(None, ["guidance=4", "add=[a, b:0.5]"], runs)
    assert (asked.guidance, asked.add, asked.run) == (4.0, ["a", "b:0.5"], str(runs / "base-1" / "export"))
    assert server.settled("some-run", [], runs).run == "some-run"
    with refuses("guidence", "'guidance'", kind=UnknownName):
        server.settled("some-run", ["guidence=4"], runs)


def test_the_verb_takes_settings_without_a_run(monkeypatch, runs):
    seen = []
    monkeypatch.setattr(server, "serve", lambda *given: seen.append(given))
    assert main(["ui", "guidance=5", "--runs", str(runs), "--no-browser", "--port", "8123"]) == 0
    ((asked, port, opens),) = seen
    assert (asked.guidance, port, opens) == (5.0, 8123, False) and asked.run.endswith("base-1/export")


def test_without_gradio_it_says_how_to_get_it(monkeypatch, runs, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert main(["ui", "--runs", str(runs)]) == 2
    assert '"birdsd[ui]"' in capsys.readouterr().err
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "5.49.1")
    with refuses("5.49.1", "6", kind=Unsupported):
        server.check_gradio()


def test_a_port_that_is_taken_is_a_sentence():
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with refuses(str(port), "--port", kind=Unsupported):
            server.free_port(port)
    with refuses("--port", "65535", kind=BadValue):
        server.free_port(70000)
    assert server.FIRST_PORT <= server.free_port(None) < server.FIRST_PORT + server.PORTS


def test_prompts_are_worded_as_the_model_has_read_them(session):
    assert session.prompt("American Robin", "rain") == "an American Robin in rain"
    assert session.prompt("American Robin", "") == "an American Robin"
    assert session.prompt(None, "rain") == "no bird in rain" and session.prompt("", "") == ""
    assert session.first_prompt() == "an American Robin"
    assert session.model.environments == ("rain", "wind")


def test_a_clip_is_made_once_and_told_step_by_step(session):
    shares: list[float] = []
    asked = FormValues.of(["a (Eurasian Wren:1.2)", 3, 4, 7, None, "ddim", None, 0, 0.6, 0, 0.51])
    clip = session.make(asked, shares.append)
    assert shares == [0.25, 0.5, 0.75, 1.0] and clip.made and clip.species == ("Eurasian Wren",)
    assert not session.make(asked).made
    figure, table = session.figure(clip, asked), session.labels(clip)
    assert "<audio" in figure and "data:image/png" in figure and "seed 7, guidance 3" in figure
    assert "Eurasian Wren" in table and "0.0625\u20138" in table
    nothing = session.make(FormValues("a bird", 1, 1, 0))
    assert 'data-code="no-species"' in session.labels(nothing)


def test_an_uploaded_recording_is_kept_beside_the_clips(session, recording, tmp_path):
    upload = tmp_path / "upload.wav"
    upload.write_bytes(recording.read_bytes())
    asked = FormValues("a Eurasian Wren", 3, 4, 1, init=str(upload), start_s=0.25, strength=0.5)
    clip = session.make(asked)
    assert "upload.wav with strength 0.5" in session.figure(clip, asked)
    upload.unlink()
    recipe = Recipe.read(clip.recipe)
    kept = Path(recipe.request.init.rpartition("@")[0])
    assert kept.parent == session.out.resolve() / "recordings" and kept.read_bytes() == recording.read_bytes()
    assert recipe.request.strength == 0.5 and recipe.request.init.endswith("@0.25")
    (label,) = read_raven(clip.table)
    assert (label.start_s, label.end_s) == (0.0, pytest.approx(CODEC.clip_s))


def test_a_stretch_is_a_part_of_the_clip(session, recording):
    whole = FormValues("a wren", 3, 2, 1, init=str(recording), mask_end_s=session.whole_s)
    assert not session.request(whole).is_masked
    part = FormValues(
        "a Eurasian Wren", 3, 2, 1, init=str(recording), mask_start_s=0.2, mask_end_s=session.whole_s
    )
    request = session.request(part)
    assert (request.mask_start_s, request.mask_end_s, request.strength) == (0.2, None, None)
    clip = session.make(part)
    assert read_raven(clip.table)[0].start_s == 0.2
    assert "0.2 to 0.512 s " in session.figure(clip, part) and "my tone.wav" in session.figure(clip, part)


def test_the_facts_name_the_model_and_the_rights(session):
    facts = session.facts()
    assert "base-1" in facts and "2 species" in facts and "0.512 s at 16 kHz" in facts
    assert "CC BY-NC 4.0" in facts


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason='gradio is not installed (pip install "birdsd[ui]")'
)


@pytest.fixture
def served(session, monkeypatch):
    """The page, served as `birdsd ui` does, but for the loading of the model."""
    monkeypatch.setattr(UiSession, "open", classmethod(lambda cls, asked: session))
    page = server.serve(session.config, browser=False, wait=False)
    yield page
    page.close()


@needs_gradio
def test_it_listens_on_this_machine_alone(served):
    assert served.local_url.startswith("http://127.0.0.1:") and served.share_url is None
    assert not served.analytics_enabled
    port = int(served.local_url.rstrip("/").rpartition(":")[2])
    with socket.socket() as other:  # an address of this machine that is not 127.0.0.1
        other.settimeout(5)
        with pytest.raises(OSError):
            other.connect(("127.0.0.2", port))


@pytest.mark.slow
@needs_gradio
@needs_browser
def test_the_page_in_a_browser(served, session, recording, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(served.local_url)
        page.wait_for("!!document.querySelector('#generate')")
        page.wait_for("document.querySelector('#prompt textarea')?.value === 'an American Robin'")
        page.type_into("#prompt textarea", "a Eurasian Wren <b>in rain</b>")
        page.click("#generate")
        page.wait_for("document.querySelector('#shown figcaption')?.textContent.includes('<b>in rain</b>')")
        # The dropdown follows what was typed.
        page.wait_for("document.querySelector('#species input').value === 'Eurasian Wren'")
        duration_s = page.wait_for("document.querySelector('#shown audio').duration || 0")
        assert duration_s == pytest.approx(CODEC.clip_s, abs=0.1)
        assert "Eurasian Wren" in page.run("document.querySelector('#labels').textContent")

        clip = _saved(page, tmp_path / "downloads")
        samples, rate_hz = soundfile.read(clip[".wav"])
        assert rate_hz == CODEC.rate_hz and len(samples) == CODEC.samples_per_clip and np.ptp(samples) > 0
        assert Recipe.read(clip[".json"]).request.prompts == ("a Eurasian Wren <b>in rain</b>",)
        assert read_raven(clip[".txt"])[0].label == "Eurasian Wren"
        assert clip[".png"].read_bytes() == next(session.out.glob("a_Eurasian_Wren_b*.png")).read_bytes()

        # The picture plays from where it is clicked.
        page.click("#shown .field")
        page.wait_for("document.querySelector('#shown audio').currentTime > 0.1")

        page.click("#again")
        page.wait_for("!document.querySelector('#shown figcaption').textContent.includes('seed 0,')")
        assert page.run("document.querySelectorAll('#earlier audio').length") == 1

        _upload(page, recording)
        page.click("#generate")
        page.wait_for("document.querySelector('#shown figcaption').textContent.includes('with strength 0.5')")

        page.type_into("#prompt textarea", " ")
        page.click("#generate")
        page.wait_for("document.body.textContent.includes('Enter a prompt that says what should sing')")
        page.screenshot(tmp_path / "page.png")

        asked = [url for url in page.requests() if not url.startswith(("data:", "blob:", "about:"))]
        assert asked and all(url.startswith(served.local_url) for url in asked), asked
        assert page.errors() == []
    recipes = [json.loads(path.read_text()) for path in session.out.glob("*.json")]
    assert any(told.get("start") for told in recipes)


def _saved(page, folder: Path) -> dict[str, Path]:
    """Click all four buttons that save, and wait for the files: ending -> path."""
    folder.mkdir()
    page.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    found: dict[str, Path] = {}
    for number, kind in enumerate(("wav", "png", "table", "recipe")):
        page.click(f"#save-{kind}")
        end = time.monotonic() + 30
        while len(found) == number:
            assert time.monotonic() < end, f"{kind} was not saved"
            time.sleep(0.05)
            found = {path.suffix: path for path in folder.iterdir() if path.suffix != ".crdownload"}
    return found


def _upload(page, recording):
    """Open the part about recordings and give the file, as the dialogue of a browser would."""
    page.run(
        "[...document.querySelectorAll('button')]"
        ".find(e=>/Start from a recording/.test(e.textContent)).click()"
    )
    page.wait_for("!!document.querySelector('#init input[type=file]')")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    found = page.call("DOM.querySelector", nodeId=root, selector="#init input[type=file]")
    page.call("DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(recording)])
    page.wait_for("!document.querySelector('#init input[type=file]')")


def test_the_parser_stands_alone():
    parser = argparse.ArgumentParser()
    next(verb for verb in VERBS if verb.name == "ui").add_to(parser.add_subparsers())
    options = parser.parse_args(["ui", "RUN", "steps=5"])
    assert (options.run, options.settings, options.port, options.no_browser) == (
        "RUN",
        ["steps=5"],
        None,
        False,
    )


@pytest.fixture
def hosts(monkeypatch):
    """Every host whose address this process asks for."""
    asked, look_up = [], socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or look_up(host, *rest, **more)
    )
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.invalid:8080")  # as on many a campus
    return asked


@needs_gradio
def test_nothing_is_asked_of_another_machine_when_it_starts(hosts, served):
    """Gradio would ask for its newest version, count its start, and look for itself through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(served.local_url) as answer:
        text = answer.read().decode()
    assert "fonts.googleapis" not in text and 'src="http' not in text
    time.sleep(0.5)
    assert hosts and {str(host) for host in hosts} <= {"127.0.0.1", "localhost", "None"}
