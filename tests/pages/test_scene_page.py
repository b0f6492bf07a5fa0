"""A scene on a page: a box for each event where it was measured, a player, and a table that hides nothing."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from birdsd.errors import NotFound
from birdsd.pages.demo import ClosingScene, demo_page
from birdsd.pages.scene import SceneFolder, scene_figure, scene_table
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.page_samples import scene_folder
from tests.support.pages import HOSTILE, _addresses, _Checker, _data


def boxes(text: str) -> list[dict[str, str | None]]:
    return [attrs for tag, attrs in _Checker(text).tags if tag == "button"]


def shares(box: dict[str, str | None]) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+):([\d.]+)%", box["style"] or "")}


def test_a_box_lies_where_the_event_was_measured(tmp_path: Path) -> None:
    scene = SceneFolder(scene_folder(tmp_path / "evening"))
    first, second = boxes(str(scene_figure(scene, "a scene")))
    # 1 to 2 s of 8 s, 2 to 4 kHz of 8 kHz.
    assert shares(first) == pytest.approx({"left": 12.5, "width": 12.5, "bottom": 25, "height": 25})
    assert (first["data-at"], second["data-at"]) == ("1.000", "4.000"), "in the order of time"
    assert "Synthetic High" in (first["title"] or "") and first["type"] == "button"


def test_the_sound_is_embedded_or_at_an_address(tmp_path: Path) -> None:
    scene = SceneFolder(scene_folder(tmp_path / "evening"))
    page = _Checker(str(scene_figure(scene, "a scene")))
    assert all(address.startswith("data:") for address in _addresses(page))
    there = _Checker(str(scene_figure(scene, "a scene", "/file=x.wav")))
    assert "/file=x.wav" in _addresses(there)
    assert sum(tag == "audio" for tag, _ in there.tags) == 1


def test_the_table_tells_what_nobody_confirmed_and_what_is_left_out(tmp_path: Path) -> None:
    folder = scene_folder(tmp_path / "evening")
    words = " ".join("".join(_Checker(str(scene_table(SceneFolder(folder)))).text).split())
    why = json.loads((folder / "labels.json").read_text())["asked"][-1]["why"]
    assert "Synthetic High song 1.002.00 2–4 6.0 Fake judge 0.90" in words
    assert "nobody" in words
    assert f"left out: {why}" in words and "-33 dBFS" in words


def test_what_is_not_heard_in_the_mix_is_said_and_marked(tmp_path: Path) -> None:
    folder = scene_folder(tmp_path / "evening")
    labels = json.loads((folder / "labels.json").read_text())
    sure = [one["confirmed"] is True for one in sorted(labels["came_out"], key=lambda one: one["onset_s"])]
    for heard in (True, False):
        for one in labels["came_out"]:
            one["mix_heard"] = heard
        (folder / "labels.json").write_text(json.dumps(labels))
        table = str(scene_table(SceneFolder(folder)))
        assert table.count('data-code="not-in-mix"') == (0 if heard else len(sure))
        drawn = re.findall(r"<button.*?</button>", str(scene_figure(SceneFolder(folder), "a scene")))
        marked = [box.endswith(" ?</span></button>") for box in drawn]
        assert marked == [not (one and heard) for one in sure] and any(sure)


def test_names_in_a_scene_stay_text(tmp_path: Path) -> None:
    scene = SceneFolder(scene_folder(tmp_path / "evening", HOSTILE.replace("\udcff", "")))
    for text in (str(scene_figure(scene, HOSTILE)), str(scene_table(scene))):
        page = _Checker(text)
        assert not any(tag == "script" for tag, _ in page.tags)
        assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)


def test_a_folder_without_a_scene_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("{}")
    with refuses(str(tmp_path), "birdsd run scene", kind=NotFound):
        SceneFolder(tmp_path).labels  # noqa: B018


def test_the_demo_ends_with_its_scene(codec: SpectrogramCodec, tmp_path: Path) -> None:
    prompt = "a Synthetic High in loud rain followed by a Synthetic Low in quiet rain"
    scene = ClosingScene(prompt, scene_folder(tmp_path / "evening"))
    data = dataclasses.replace(_data(codec, None, True, "x"), scene=scene)
    text = demo_page(tmp_path / "report.html", data).read_text("utf-8")
    page = _Checker(text)
    assert text.rindex("<section") < text.index('class="box'), "nothing comes after it"
    assert prompt in "".join(page.text) and len(boxes(text)) == 2
    assert all(address.startswith(("data:", "#")) for address in _addresses(page))
    assert sum(tag == "audio" for tag, _ in page.tags) == 3, "two clips and the scene"
    assert "CC BY 4.0" in text and "Recordist &lt;1&gt;" in text, "recordings in the mix are named"
    lost = dataclasses.replace(
        data, scene=ClosingScene(prompt, None, "the stage 'scene' ended with status 2.")
    )
    page = _Checker(demo_page(tmp_path / "lost.html", lost).read_text("utf-8"))
    assert "no-scene" in [attrs.get("data-code") for _, attrs in page.tags]
    assert "the stage 'scene' ended with status 2." in "".join(page.text)
    assert "A whole scene" not in demo_page(
        tmp_path / "none.html", dataclasses.replace(data, scene=None)
    ).read_text("utf-8")
