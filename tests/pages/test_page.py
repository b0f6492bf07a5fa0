"""A page stands alone, says what it shows in words, and cannot be broken by the names in it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from birdsd.cluster.snapshot import _files, code_root
from birdsd.evaluation.weak_check import GeneratedClip, LearningCheck, learning_check
from birdsd.pages.charts import Curve, Marker, confusion_table, line_chart, nice_ticks, smoothed, time_bar
from birdsd.pages.demo import demo_page
from birdsd.pages.environment import amount, environment, palette
from birdsd.pages.media import magma, picture_levels, png, sound_uri, spectrogram
from birdsd.pages.page import Page, card, name, note, table
from birdsd.shards.index import ShardIndex
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.pages import HOSTILE, _addresses, _Checker, _data
from tests.support.songs import SPECIES, song


@pytest.fixture(scope="module")
def check(index: ShardIndex, codec: SpectrogramCodec) -> LearningCheck:
    made = [
        GeneratedClip(s, image=codec.encode(song(s, 20 + i, 0, codec), codec.rate_hz))
        for s in SPECIES
        for i in range(3)
    ]
    return learning_check(index, made)


def test_the_demo_page_stands_alone_and_is_well_formed(
    codec: SpectrogramCodec, check: LearningCheck, tmp_path: Path
) -> None:
    path = demo_page(tmp_path / "report.html", _data(codec, check, True, "Synthetic High"))
    text = path.read_text(encoding="utf-8")
    page = _Checker(text)
    for address in _addresses(page):
        assert address.startswith(("data:", "#")), f"the page refers to {address[:80]}"
    anchors = {attrs.get("id") for _, attrs in page.tags}
    assert {a[1:] for a in _addresses(page) if a.startswith("#")} <= anchors
    assert not re.search(r"@import|url\((?!['\"]?data:)", text)
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv")]
    assert len(policy) == 1 and "default-src 'none'" in (policy[0] or "")
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag in {"audio", "svg"})
    assert sum(tag == "audio" for tag, _ in page.tags) == 2
    words = "".join(page.text)
    assert "killed at 2,400, resumed from 2,000" in words
    assert [attrs["data-left-out"] for _, attrs in page.tags if "data-left-out" in attrs] == ["1"]
    verdicts = [
        attrs["data-better-than-chance"] for _, attrs in page.tags if "data-better-than-chance" in attrs
    ]
    assert "33.3%" in words and "true" in verdicts


def test_a_synthetic_aviary_is_named_synthetic_and_real_birds_are_not(
    codec: SpectrogramCodec, check: LearningCheck, tmp_path: Path
) -> None:
    page = _Checker(demo_page(tmp_path / "s", _data(codec, check, True, "x")).read_text("utf-8"))
    made = "".join(page.text)
    real = "".join(
        _Checker(demo_page(tmp_path / "r", _data(codec, None, False, "x")).read_text("utf-8")).text
    )
    assert "synthetic" in [attrs.get("data-code") for _, attrs in page.tags]
    assert "Synthetic birds" in made and "Held-out synthetic" in made
    assert "held-out synthetic recordings" in made
    assert "ynthetic" not in real and "Held-out recording" in real


def test_hostile_names_stay_text(codec: SpectrogramCodec, tmp_path: Path) -> None:
    path = demo_page(tmp_path / "report.html", _data(codec, None, False, HOSTILE))
    text = path.read_text(encoding="utf-8")
    page = _Checker(text)
    assert sum(tag == "script" for tag, _ in page.tags) == 1, "only the page's own script"
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    assert "\u202e" not in text and "\x00" not in text
    assert "<script>alert('x')</script>" in "".join(page.text), "shown as it was written"
    assert "é鳥" in "".join(page.text)


def test_what_a_template_prints_is_escaped_unless_it_is_markup() -> None:
    template = environment().from_string('<a title="{{ x }}">{{ x }}</a>')
    for hostile in ("\"><script>alert('x')</script>", "a\u202eb\x00c", "\udcff"):
        text = template.render(x=hostile)
        assert "<script>" not in text and text.count('"') == 2
        assert not set(text) & {"\u202e", "\x00", "\udcff"}
        text.encode("utf-8")
    assert environment().from_string("{{ x }}{{ y }}").render(x=Markup("<b>"), y=None) == "<b>"
    assert name("<b>") == "<bdi>&lt;b&gt;</bdi>"


def test_a_name_that_is_missing_in_a_template_is_an_error() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nobody }}").render()


def test_sound_in_a_page_is_the_sound() -> None:
    time = np.arange(32000) / 32000
    sound = (0.4 * np.sin(2 * np.pi * 9000 * time))[None].astype(np.float32)
    mp3, wav = sound_uri(sound, 32000), sound_uri(sound, 31000)
    assert (
        mp3.startswith("data:audio/mpeg;") and wav.startswith("data:audio/wav;") and len(mp3) < len(wav) / 4
    )
    for uri, rate in ((mp3, 32000), (wav, 31000)):
        heard, heard_rate = soundfile.read(io.BytesIO(base64.b64decode(uri.split(",")[1])))
        assert heard_rate == rate and len(heard) == 32000
        error = heard[2000:-2000] - sound[0, 2000:-2000]
        assert 10 * np.log10((error**2).mean() / (sound**2).mean()) < -30
    clipped = sound_uri(np.array([[np.nan, 9.0, -9.0]], np.float32), 31000)
    heard, _ = soundfile.read(io.BytesIO(base64.b64decode(clipped.split(",")[1])))
    assert heard.tolist() == pytest.approx([0, 1, -1], abs=1e-4)


def test_a_picture_shows_the_loud_bright_whatever_the_codec_stores(codec: SpectrogramCodec) -> None:
    sound = song("Synthetic High", 0, 0, codec)
    dark_is_loud = SpectrogramCodec(
        rate_hz=16000, bands=64, fmin_hz=200, fmax_hz=8000, frames=128, intensity="power"
    )
    pictures = [picture_levels(c, c.encode(sound, c.rate_hz)) for c in (codec, dark_is_loud)]
    for picture in pictures:
        assert picture.shape == (64, 128) and picture.dtype == np.uint8
        row, _ = np.unravel_index(picture.argmax(), picture.shape)
        assert 5000 < codec.row_hz()[row] < 7000 and picture[-1].mean() < 60
    back = np.asarray(Image.open(io.BytesIO(png(pictures[0]))).convert("RGB"))
    assert np.array_equal(back, magma()[pictures[0]])


def test_the_frequency_axis_marks_where_a_frequency_lies(codec: SpectrogramCodec) -> None:
    levels = np.zeros((codec.bands, codec.frames), np.uint8)
    text = spectrogram(levels, codec, alt="x")
    places = {float(khz): float(share) for share, khz in re.findall(r"bottom:([\d.]+)%\">([\d.]+)<", text)}
    assert 4.0 in places
    for khz, share in places.items():
        assert share / 100 == pytest.approx((1000 * khz - 200) / 7800, abs=0.02)


def test_a_chart_draws_what_it_can_and_counts_the_rest() -> None:
    x = list(range(5000))
    y = [1 / (1 + v) for v in x]
    y[10], y[20], y[30] = float("nan"), float("inf"), -1.0
    text = line_chart(
        [Curve("<loss>", x, y)],
        x_label="samples",
        y_label="loss",
        alt="falls",
        log_y=True,
        markers=[Marker(5, "<m>")],
    )
    _Checker(text)
    assert 'data-left-out="3"' in text and "&lt;loss&gt;" in text and "&lt;m&gt;" in text
    drawn = re.search(r'class="series s1" d="([^"]+)"', text)
    assert drawn and drawn[1].count("L") < 700, "thinned"
    assert 'data-code="empty"' in line_chart([Curve("a", [], [])], x_label="x", y_label="y", alt="z")
    for single in ([0.0], [3.0], [0.0, 0.0]):
        _Checker(line_chart([Curve("a", single, single)], x_label="x", y_label="y", alt="z"))
    for values in ([5.0, 5.0], [4.9e-3, 5.1e-3], [1e-9, 1e9]):
        _Checker(line_chart([Curve("a", [0, 1], values)], x_label="x", y_label="y", alt="z", log_y=True))


def test_ticks_are_round_and_smoothing_keeps_a_constant() -> None:
    assert nice_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0.013, 0.047, 4) == pytest.approx([0.02, 0.03, 0.04])
    assert smoothed([2.0] * 9, 4).tolist() == pytest.approx([2.0] * 9)
    assert len(smoothed([], 3)) == 0 and len(smoothed([1.0, 2.0], 50)) == 2


def test_shares_and_confusions_say_their_numbers() -> None:
    bar = time_bar([("prepare", 30.0), ("train", 90.0), ("nothing", 0.0)])
    _Checker(bar)
    assert "1\u00a0min\u00a030\u00a0s, 75%" in bar and "30\u00a0s, 25%" in bar
    table = confusion_table(["a", "b"], np.array([[3, 1], [0, 0]]), title="c", rows="true", columns="named")
    _Checker(table)
    assert table.count("<td") == 4 and ">3<" in table


def test_counts_read_well() -> None:
    assert [amount(v) for v in (12345, 3, 3.14, 0.0421)] == ["12,345", "3", "3.1", "0.042"]


def test_the_page_of_the_ui_has_the_same_colours() -> None:
    assert palette()["accent"] == ("#17606b", "#76c7cd") and len(palette()["c6"]) == 2


def test_a_page_lists_its_sections(tmp_path: Path) -> None:
    page = Page("T & T", lead="l")
    page.section("One <1>", note("careful", warn=True))
    page.section("Two", card(table(["a", "b"], [["x", 1]], numeric=(1,), total=True)))
    seen = _Checker(page.write(tmp_path / "p.html").read_text("utf-8"))
    links = [attrs["href"] for tag, attrs in seen.tags if tag == "a"]
    assert links == ["#part-1", "#part-2"]
    assert "One <1>" in seen.text and "T & T" in seen.text


def test_templates_and_styles_travel_with_the_code() -> None:
    """Into the snapshot that queued jobs run, and (by pyproject's package data) into the wheel."""
    root = code_root()
    ours = {path.relative_to(root).as_posix() for kind in ("templates", "static")
            for path in (root / "birdsd" / "pages" / kind).iterdir()}  # fmt: skip
    assert len(ours) > 10 and ours <= set(_files(root))
    assert '"birdsd.pages" = ["static/*", "templates/*"]' in (root / "pyproject.toml").read_text()
