"""The picture of an audit: a few recordings, the original beside each codec's round trip."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from birdsd.files import atomic_write
from birdsd.sound.audit.fidelity import NEUTRAL_RATE_HZ
from birdsd.sound.codec.protocol import Codec
from birdsd.sound.codec.transform import Stft

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from birdsd.sound.audit.result import Stretch

_SHOWN = Stft(window=512, hop=64, n_fft=1024)  # short, so that trills show
_SHOWN_S = 1.5  # around the loudest moment: longer ones hide what happens to fast notes
_TOP_HZ = 16000
_RANGE_DB = 70


def _levels_db(channel: np.ndarray) -> np.ndarray:
    top = round(_TOP_HZ * _SHOWN.n_fft / NEUTRAL_RATE_HZ)
    magnitude = _SHOWN.magnitude(channel)[:, :top].T
    return 20 * np.log10(magnitude / float(_SHOWN.hann.sum() / 2) + 1e-9)


def _liveliest_s(channel: np.ndarray) -> float:
    """The start of the `_SHOWN_S` seconds with most song above 1 kHz (wind is not the bird).

    Amplitudes are summed, not energies: a busy passage shows more than one loud note at its edge.
    """
    low = round(1000 * _SHOWN.n_fft / NEUTRAL_RATE_HZ)
    song = np.sqrt(np.sum(_SHOWN.magnitude(channel)[:, low:] ** 2, axis=1))
    width = round(_SHOWN_S * NEUTRAL_RATE_HZ / _SHOWN.hop)
    if len(song) <= width:
        return 0.0
    total = np.concatenate([[0.0], np.cumsum(song, dtype=np.float64)])
    return float(np.argmax(total[width:] - total[:-width]) * _SHOWN.hop / NEUTRAL_RATE_HZ)


def draw(
    path: Path,
    codecs: Sequence[Codec],
    rows: Sequence[tuple[Stretch, np.ndarray, Sequence[np.ndarray]]],
) -> Path:
    """Draw (stretch, original, round trips) rows as spectrograms to a PNG at `path`; returns the path."""
    from matplotlib.figure import Figure  # not at the top: the command line imports this module

    figure = Figure(figsize=(4.2 * (1 + len(codecs)), 2.9 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), 1 + len(codecs), squeeze=False, sharex="row", sharey=True)
    for line, (stretch, original, copies) in zip(axes, rows, strict=True):
        start_s = _liveliest_s(original[0])
        part = slice(round(start_s * NEUTRAL_RATE_HZ), round((start_s + _SHOWN_S) * NEUTRAL_RATE_HZ))
        # One scale for a row: the copy of a codec that loses loudness looks as wrong as it sounds.
        loudest = float(_levels_db(original[0, part]).max())
        titles = [_title(stretch.path, original.shape[0])]
        for codec, fidelity in zip(codecs, stretch.fidelity, strict=True):
            trills = "" if fidelity.trills_db is None else f", trills {fidelity.trills_db:.1f} dB"
            titles.append(f"codec={codec.name}: {fidelity.overall_db:.1f} dB{trills}")
        for axis, title, sound in zip(line, titles, [original, *copies], strict=True):
            axis.imshow(
                _levels_db(sound[0, part]),
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=loudest - _RANGE_DB,
                vmax=loudest,
                extent=(start_s, start_s + len(sound[0, part]) / NEUTRAL_RATE_HZ, 0, _TOP_HZ / 1000),
            )
            axis.set_title(title, fontsize=9, parse_math=False)
        line[0].set_ylabel("kHz")
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    return save_png(figure, path)


def save_png(figure: Figure, path: Path) -> Path:
    """Write a figure atomically as a PNG; returns the path."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    with atomic_write(path) as stream:
        stream.write(buffer.getvalue())
    return path


def _title(path: Path, channels: int) -> str:
    name = f"{path.parent.name}/{path.name}"
    return (name if len(name) <= 48 else "..." + name[-45:]) + (" (left)" if channels == 2 else "")
