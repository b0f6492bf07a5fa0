"""The previews of a run, for its page: the newest to hear, the earlier ones as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from birdsd.errors import UserError
from birdsd.files import read_json
from birdsd.pages import page as html
from birdsd.pages.markup import Html, element, join
from birdsd.pages.media import audio, picture_levels, png, spectrogram
from birdsd.pages.page import amount, name
from birdsd.sound.codec.protocol import Codec

# Bytes of sound and of pictures in a page, as base64; what does not fit is left out, and that is said.
SOUND_BYTES, PICTURE_BYTES = 7_000_000, 2_500_000
_MOST_ITEMS = 12  # of the newest preview
_EARLIER = 6  # previews before the newest, evenly over the run
_STRIP_WIDTH = 220  # pixels of an earlier picture
_GAP = 4  # white rows between the pictures of a grid.png
_RECORDED = "recorded"  # what a name ends with that is no work of the model


@dataclass(frozen=True)
class Piece:
    """A sound of a preview and its picture, RGB uint8 [H, W, 3], where there is one."""

    key: str
    picture: np.ndarray | None
    sound: Path


def previews(run_folder: Path) -> list[tuple[int, Path]]:
    """(samples seen, folder) of every preview, oldest first."""
    found = [path for path in (Path(run_folder) / "previews").glob("*") if path.name.isdigit()]
    return sorted((int(path.name), path) for path in found if path.is_dir())


def pieces(folder: Path) -> list[Piece]:
    """The sounds of a preview in the order of its grid, each with its part of the grid."""
    sounds = sorted(folder.glob("*.wav"), key=_place)
    cut = _cut(_grid(folder), len(sounds)) if sounds else []
    return [Piece(path.stem, cut[place] if cut else None, path) for place, path in enumerate(sounds)]


def _place(path: Path) -> tuple[str, bool, str]:
    number, _, rest = path.stem.partition("-")
    return number, not rest.endswith(_RECORDED), rest


def _grid(folder: Path) -> np.ndarray | None:
    from PIL import Image

    try:
        with Image.open(folder / "grid.png") as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError):
        return None


def _cut(grid: np.ndarray | None, count: int) -> list[np.ndarray]:
    """`count` equal pictures from a grid; its rows have white gaps, and may hold several below each other."""
    if grid is None:
        return []
    height = grid.shape[0]
    for rows in range(count, 0, -1):
        each, rest = divmod(height + _GAP, rows)
        each -= _GAP
        if count % rows or rest or each <= 0 or each % (count // rows):
            continue
        starts = [row * (each + _GAP) for row in range(rows)]
        if all((grid[s + each : s + each + _GAP] == 255).all() for s in starts[:-1]):
            tall = each // (count // rows)
            return [grid[s + k * tall : s + (k + 1) * tall] for s in starts for k in range(count // rows)]
    return []


def codec_of(run_folder: Path) -> Codec | None:
    """The codec of the run's pictures, from its export or its shards; None where neither can be read."""
    places = [Path(run_folder) / "export"]
    with suppress(UserError, KeyError, TypeError):
        places.append(Path(read_json(Path(run_folder) / "shards.json")["folder"]))
    places.append(Path(run_folder) / "shards")  # of a run that was unpacked without its shards
    for place in places:
        try:
            held = dict(read_json(place / "codec.json"))
            if "kind" not in held:
                # The size of the FFT does not change the axes, and to choose one would need scipy.
                held["n_fft"] = held.get("n_fft") or 1 << 15
            return Codec.from_json(held)
        except (UserError, TypeError, ValueError):
            continue
    return None


class Budget:
    """How many bytes may still go into the page."""

    def __init__(self, sound: int = SOUND_BYTES, picture: int = PICTURE_BYTES) -> None:
        self.left = {"sound": sound, "picture": picture}
        self.left_out = {"sound": 0, "picture": 0}

    def takes(self, kind: str, size: int) -> bool:
        """Whether it fits; if so it is taken."""
        if size > self.left[kind]:
            self.left_out[kind] += 1
            return False
        self.left[kind] -= size
        return True


def listen(run_folder: Path, config: Mapping[str, Any], budget: Budget) -> list[Html]:
    """The newest preview to hear, and how each of its sounds came to be; empty without previews."""
    found = previews(run_folder)
    if not found:
        return []
    codec = codec_of(run_folder)
    newest, folder = found[-1]
    items = pieces(folder)
    intro = element(
        "p",
        f"What it made after {amount(newest)} samples. Click a picture to play from there; one player stops "
        "the others.",
    )
    prompts = _prompts(config)
    blocks: list[Html] = [intro]
    if not items:
        blocks.append(_whole_grid(folder, newest, budget))
    cards = _cards(items[:_MOST_ITEMS], codec, prompts, budget)
    blocks += cards if any(item.key.endswith(_RECORDED) for item in items) else [html.grid(*cards)]
    if len(found) > 1:
        blocks += _how_it_came(found, items[:_MOST_ITEMS], codec, prompts, budget)
    said = []
    if len(items) > _MOST_ITEMS:
        said.append(f"{len(items) - _MOST_ITEMS} more sounds of this preview are in {folder.name}/")
    for kind, count in budget.left_out.items():
        if count:
            said.append(f"{count} {kind}{'s' * (count > 1)} left out to keep this page small")
    if said:
        blocks.append(
            element("p", f"{'; '.join(said)}: see {Path(run_folder).name}/previews/.", class_="quiet")
        )
    return blocks


def _cards(items: Sequence[Piece], codec: Codec | None, prompts: Sequence[str], budget: Budget) -> list[Html]:
    """A card for each sound; what was recorded and what is left of it share one."""
    together: dict[str, list[Html]] = {}
    for item in items:
        figure = _hear(item, codec, prompts, budget)
        together.setdefault(item.key.partition("-")[0], []).append(figure)
    return [
        html.card(html.grid(*figures) if len(figures) > 1 else figures[0]) for figures in together.values()
    ]


def _prompts(config: Mapping[str, Any]) -> list[str]:
    save = config.get("save")
    given = save.get("preview_prompts") if isinstance(save, dict) else None
    return [str(prompt) for prompt in given] if isinstance(given, list) else []


def caption(key: str, prompts: Sequence[str]) -> str:
    """What a sound is called: the prompt as it was given, else the words of its file's name."""
    number, dash, rest = key.partition("-")
    if not dash or not number.isdigit():
        return key.replace("_", " ")
    if rest in (_RECORDED, "reconstructed"):
        return f"{rest}, held-out clip {int(number) + 1}"
    return prompts[int(number)] if int(number) < len(prompts) else rest.replace("_", " ")


def _hear(item: Piece, codec: Codec | None, prompts: Sequence[str], budget: Budget) -> Html:
    from birdsd.sound.audio.recordings import written_note

    words = caption(item.key, prompts)
    waveform, rate = _sound(item.sound, budget)
    note = written_note(item.sound)
    levels = _levels(item.picture, codec)
    if levels is None or codec is None or not budget.takes("picture", levels.size):
        player = ""
        if waveform is not None:
            player = audio(waveform, rate, words)
        below = element("figcaption", note) if note else ""
        return element("figure", element("h4", name(words)), player, below, class_="sound")
    return spectrogram(
        levels,
        codec.row_hz(),
        codec.clip_s * levels.shape[1] / codec.frames,
        alt=f"Spectrogram: {words}",
        title=name(words),
        waveform=waveform,
        rate_hz=rate,
        caption=note or None,
    )


def _sound(path: Path, budget: Budget) -> tuple[np.ndarray | None, int]:
    """A sound [C, N] and its rate; None where it cannot be read, or the page is full."""
    import soundfile

    try:
        about = soundfile.info(path)
        # As MP3 it takes less than this; as the WAV that odd rates stay it takes just this.
        if not budget.takes("sound", int(about.frames * about.channels * 2 * 4 / 3)):
            return None, 0
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        return samples.T, int(rate)
    except (OSError, RuntimeError):
        return None, 0


def _levels(picture: np.ndarray | None, codec: Codec | None) -> np.ndarray | None:
    """Loudness to show, uint8 [H, W]."""
    if picture is None or codec is None or picture.shape[0] != codec.bands:
        return None
    return picture_levels(codec, codec.from_rgb(picture))


def _how_it_came(
    found: Sequence[tuple[int, Path]],
    items: Sequence[Piece],
    codec: Codec | None,
    prompts: Sequence[str],
    budget: Budget,
) -> list[Html]:
    """For each sound the pictures of earlier previews, evenly over the run, and the newest at the end."""
    earlier = found[:-1]
    places = np.linspace(0, len(earlier) - 1, min(_EARLIER, len(earlier))).round().astype(int)
    columns = [(at, {p.key: p for p in pieces(folder)}) for at, folder in (earlier[i] for i in places)]
    columns.append((found[-1][0], {item.key: item for item in items}))
    rows = []
    for item in items:
        if item.key.endswith(_RECORDED):
            continue
        cells = []
        for at, held in columns:
            content = _small_picture(held.get(item.key), codec)
            if content is None or not budget.takes("picture", 4 * len(content) // 3):
                continue
            words = f"{caption(item.key, prompts)}, after {at:,} samples"
            picture = element("img", src=html.data_uri(content, "image/png"), alt=words, loading="lazy")
            cells.append(element("figure", picture, element("figcaption", amount(at))))
        if len(cells) > 1:
            rows.append(
                join([element("h4", name(caption(item.key, prompts))), element("div", *cells, class_="film")])
            )
    if not rows:
        return []
    return [element("h3", "How they came to be, by samples seen"), *rows]


def _small_picture(item: Piece | None, codec: Codec | None) -> bytes | None:
    from PIL import Image

    if item is None or item.picture is None:
        return None
    levels = _levels(item.picture, codec)
    height, width = item.picture.shape[:2]
    size = (_STRIP_WIDTH, max(1, round(height * _STRIP_WIDTH / width)))
    if levels is not None:
        return png(np.asarray(Image.fromarray(levels).resize(size, Image.Resampling.BOX)))
    stream = io.BytesIO()
    Image.fromarray(item.picture).resize(size, Image.Resampling.BOX).convert("P").save(
        stream, "PNG", optimize=True
    )
    return stream.getvalue()


def _whole_grid(folder: Path, at: int, budget: Budget) -> Html:
    """The grid as it is, where its pictures cannot be told apart."""
    path = folder / "grid.png"
    if not path.is_file() or not budget.takes("picture", 4 * path.stat().st_size // 3):
        return Html("")
    return html.image(path.read_bytes(), f"Preview after {at:,} samples")


CSS = """
.film{display:flex;gap:.5rem;overflow-x:auto;margin:.3rem 0 1.1rem;padding-bottom:.2rem}
.film figure{margin:0;flex:1 0 6.5rem;max-width:11rem}
.film img{width:100%;height:auto;aspect-ratio:2/1;object-fit:fill;image-rendering:auto}
"""
