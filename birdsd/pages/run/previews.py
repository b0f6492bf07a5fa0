"""The previews of a run, for its page: the newest with sound, the earlier ones as pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from birdsd.errors import UserError
from birdsd.files import read_json
from birdsd.pages.environment import data_uri, macro
from birdsd.pages.media import audio, picture_levels, png, spectrogram
from birdsd.sound.codec.protocol import Codec

# Bytes of sound and of pictures in a page, as base64; what does not fit is left out, and the page says so.
SOUND_BYTES, PICTURE_BYTES = 7_000_000, 2_500_000
_MOST_ITEMS = 12  # of the newest preview
_EARLIER = 6  # previews before the newest, evenly over the run
_STRIP_WIDTH = 220  # pixels of an earlier picture
_GAP = 4  # white rows between the pictures of a grid.png
_RECORDED = "recorded"  # the end of a name that is not the model's work


@dataclass(frozen=True)
class Piece:
    """A sound of a preview and its picture, RGB uint8 [H, W, 3], where there is one."""

    key: str
    picture: np.ndarray | None
    sound: Path


def previews(run_folder: Path) -> list[tuple[int, Path]]:
    """(samples seen, folder) of every preview, oldest first."""
    folders = [path for path in (Path(run_folder) / "previews").glob("*") if path.name.isdigit()]
    return sorted((int(path.name), path) for path in folders if path.is_dir())


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
            stored = dict(read_json(place / "codec.json"))
            if "kind" not in stored:
                # The size of the FFT does not change the axes, and to choose one would need scipy.
                stored["n_fft"] = stored.get("n_fft") or 1 << 15
            return Codec.from_json(stored)
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


def listen(run_folder: Path, config: Mapping[str, Any], budget: Budget) -> Markup:
    """The newest preview with sound, and how each clip developed; empty without previews."""
    every = previews(run_folder)
    if not every:
        return Markup("")
    codec = codec_of(run_folder)
    newest, folder = every[-1]
    items = pieces(folder)
    shown, prompts = items[:_MOST_ITEMS], _prompts(config)
    grid = _whole_grid(folder, budget) if not items else None
    # What was recorded and what is left of it share a card.
    cards: dict[str, list[Markup]] = {}
    for item in shown:
        figure = _figure(item, codec, prompts, budget)
        cards.setdefault(item.key.partition("-")[0], []).append(figure)
    films = _films(every, shown, codec, prompts, budget) if len(every) > 1 else []
    left_out = []
    if len(items) > _MOST_ITEMS:
        left_out.append(f"{len(items) - _MOST_ITEMS} more sounds of this preview are in {folder.name}/")
    for kind, count in budget.left_out.items():
        if count:
            left_out.append(f"{count} {kind}{'s' * (count > 1)} left out to keep this page small")
    return _listen(
        newest=newest, grid=grid, cards=list(cards.values()), films=films, left_out="; ".join(left_out),
        recorded=any(item.key.endswith(_RECORDED) for item in shown), run=Path(run_folder).name,
    )  # fmt: skip


_listen = macro("previews.html", "listen")
_sound_only = macro("previews.html", "sound_only")


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


def _figure(item: Piece, codec: Codec | None, prompts: Sequence[str], budget: Budget) -> Markup:
    from birdsd.sound.audio.recordings import written_note

    title = caption(item.key, prompts)
    waveform, rate = _sound(item.sound, budget)
    note = written_note(item.sound)
    levels = _levels(item.picture, codec)
    if levels is None or codec is None or not budget.takes("picture", levels.size):
        return _sound_only(title, audio(waveform, rate, title) if waveform is not None else "", note)
    return spectrogram(
        levels, codec, alt=f"Spectrogram: {title}", title=title, waveform=waveform, rate_hz=rate, caption=note
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


def _films(
    every: Sequence[tuple[int, Path]],
    items: Sequence[Piece],
    codec: Codec | None,
    prompts: Sequence[str],
    budget: Budget,
) -> list[tuple[str, list[tuple[int, Markup]]]]:
    """For each sound its title and the pictures (samples seen, address) of earlier previews, evenly over the
    run, and the newest at the end."""
    earlier = every[:-1]
    places = np.linspace(0, len(earlier) - 1, min(_EARLIER, len(earlier))).round().astype(int)
    columns = [(at, {p.key: p for p in pieces(folder)}) for at, folder in (earlier[i] for i in places)]
    columns.append((every[-1][0], {item.key: item for item in items}))
    films = []
    for item in items:
        if item.key.endswith(_RECORDED):
            continue
        cells = []
        for at, by_key in columns:
            content = _small_picture(by_key.get(item.key), codec)
            if content is not None and budget.takes("picture", 4 * len(content) // 3):
                cells.append((at, data_uri(content, "image/png")))
        if len(cells) > 1:
            films.append((caption(item.key, prompts), cells))
    return films


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


def _whole_grid(folder: Path, budget: Budget) -> Markup | None:
    """The grid as it is, where its pictures cannot be told apart."""
    path = folder / "grid.png"
    if not path.is_file() or not budget.takes("picture", 4 * path.stat().st_size // 3):
        return None
    return data_uri(path.read_bytes(), "image/png")
