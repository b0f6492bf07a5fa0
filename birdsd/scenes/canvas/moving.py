"""A canvas as a picture that moves: its spectrogram wanders past a line that marks the moment, with what is
asked for below. As GIF by Pillow; as MP4, with sound, where ffmpeg is installed."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

from birdsd.errors import Unsupported, unknown_name
from birdsd.files import atomic_write, explained_write
from birdsd.scenes.canvas.asked import Canvas
from birdsd.scenes.compose.picture import levels_of

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = ("auto", "gif", "mp4", "none")
NO_FFMPEG = "no MP4 was made: ffmpeg is not on the PATH"
_FPS = 10  # a GIF counts in hundredths of a second
_MOST_FRAMES = 1200
_SHOWN_S = 4.0
_PER_SECOND = 96  # columns of the picture
_HEIGHT, _WORDS = 128, 32
_RANGE_DB = 65.0


def kinds_of(asked: str) -> list[str]:
    """Which files `moving=...` asks for here; `Unsupported` for what this machine cannot make."""
    if asked not in KINDS:
        raise unknown_name("kind of moving picture", asked, KINDS)
    there = shutil.which("ffmpeg") is not None
    if asked == "mp4" and not there:
        raise Unsupported(
            "moving=mp4 without ffmpeg", "MP4 is made by the program ffmpeg, which is not on the PATH",
            "install ffmpeg, or moving=gif",
        )  # fmt: skip
    return {"auto": ["gif", "mp4"] if there else ["gif"], "none": []}.get(asked, [asked])


def write_moving(canvas: Canvas, sound: Path, path: Path) -> Path:
    """Write the moving picture of a sound file to `path`, whose ending says what it is."""
    duration_s = soundfile.info(sound).duration
    frames_a_second = min(float(_FPS), _MOST_FRAMES / duration_s)
    frames = _frames(canvas, sound, duration_s, frames_a_second)
    if path.suffix == ".mp4":
        _write_mp4(frames, frames_a_second, sound, path)
    else:
        _write_gif(frames, frames_a_second, path)
    return path


def _frames(canvas: Canvas, sound: Path, duration_s: float, frames_a_second: float) -> Iterator[Image]:
    """Pictures in the colour map, one after the other."""
    shown = round(_SHOWN_S * _PER_SECOND)
    columns = max(2, round(duration_s * _PER_SECOND))
    levels = _shades(levels_of(sound, columns)[0])
    if canvas.loop:
        wide = levels[:, np.arange(-shown // 2, columns + shown) % columns]
    else:
        wide = np.pad(levels, ((0, 0), (shown // 2, shown)))
    count = max(1, round(duration_s * frames_a_second))
    marks = np.array([mark.at_s for mark in canvas.marks])
    for number in range(count):
        at_s = number / frames_a_second
        first = round(at_s * _PER_SECOND)
        yield _frame(wide[:, first : first + shown], _said(canvas, marks, at_s), at_s)


def _shades(levels_db: np.ndarray) -> np.ndarray:
    """uint8 [_HEIGHT, columns] of levels in dB, two rows the louder of them."""
    rows = levels_db[: len(levels_db) // _HEIGHT * _HEIGHT].reshape(_HEIGHT, -1, levels_db.shape[1]).max(1)
    top = float(np.percentile(rows, 99.9))
    return np.asarray((254 * np.clip(1 + (rows - top) / _RANGE_DB, 0, 1)).astype(np.uint8))


def _said(canvas: Canvas, marks: np.ndarray, at_s: float) -> list[tuple[str, float]]:
    """(prompt, share) of the moment, the larger share first."""
    weights = canvas.weights(np.array([at_s]))[0]
    order = [int(k) for k in np.argsort(-weights, kind="stable") if weights[k] > 0]
    return [(canvas.marks[k].prompt, float(weights[k])) for k in order[:2]]


def _frame(part: np.ndarray, said: list[tuple[str, float]], at_s: float) -> Image:
    from PIL import Image, ImageDraw

    picture = Image.new("P", (part.shape[1], _HEIGHT + _WORDS), 0)
    picture.putpalette(_palette())
    picture.paste(Image.fromarray(part), (0, 0))
    draw = ImageDraw.Draw(picture)
    draw.line([(part.shape[1] // 2, 0), (part.shape[1] // 2, _HEIGHT)], fill=255)
    draw.text((part.shape[1] - 42, _HEIGHT + 2), f"{at_s:5.1f} s", fill=255)
    for row, (prompt, share) in enumerate(said):
        # Pillow's own font knows Latin letters; what it lacks must not end the picture.
        text = f"{share:4.0%} {prompt}".encode("ascii", "replace").decode()
        draw.text((4, _HEIGHT + 2 + 14 * row), text[:52], fill=255)
    return picture


def _palette() -> list[int]:
    """A colour map from black over violet to yellow, and white as its last."""
    at = np.linspace(0, 1, 255)
    red, green, blue = (
        np.interp(at, [0, 0.4, 0.75, 1], shades)
        for shades in ([0, 110, 240, 252], [0, 25, 96, 253], [4, 125, 90, 191])
    )
    return [*np.stack([red, green, blue], 1).round().astype(int).ravel().tolist(), 255, 255, 255]


def _write_gif(frames: Iterator[Image], frames_a_second: float, path: Path) -> None:
    first = next(frames)
    with explained_write(path), atomic_write(path) as stream:
        first.save(
            stream, format="GIF", save_all=True, append_images=frames, loop=0, disposal=1,
            duration=round(1000 / frames_a_second),
        )  # fmt: skip


def _write_mp4(frames: Iterator[Image], frames_a_second: float, sound: Path, path: Path) -> None:
    """Frames go to ffmpeg as they are made; no shell reads the names."""
    first = next(frames)
    made = path.with_name(f".partial-{path.name}")
    command = [
        "ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{first.width}x{first.height}",
        "-r", f"{frames_a_second:.6f}", "-i", "pipe:0", "-i", str(sound.resolve()),
        "-pix_fmt", "yuv420p", "-shortest", str(made.resolve()),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdin is not None and program.stderr is not None
        try:
            program.stdin.write(first.convert("RGB").tobytes())
            for frame in frames:
                program.stdin.write(frame.convert("RGB").tobytes())
            program.stdin.close()
        except BrokenPipeError:
            pass  # it says why, and ends with an error
        said = program.stderr.read().decode("utf-8", "replace").strip()
        status = program.wait()
    if status or not made.is_file():
        made.unlink(missing_ok=True)
        raise Unsupported(
            f"ffmpeg could not make {path.name}: {said.splitlines()[-1] if said else f'status {status}'}",
            "it was given frames as RGB and the sound file", "moving=gif makes none",
        )  # fmt: skip
    made.replace(path)
