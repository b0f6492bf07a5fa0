"""The judge (BirdNET V2.4) on one core: against real time, and against the loop that users of BirdNET know.

The peer does over the same file and windows what BirdNET-Analyzer and birdnetlib do without TensorFlow:
librosa reads and resamples the whole file, then for every window of 3 s the interpreter (one thread, the
same runtime) is given a batch of one, and the scores are put beside their labels, sorted, and kept above the
minimum confidence. librosa resamples by soxr here; their `kaiser_fast` needs another package and is slower.
Ours also gives the embeddings, which the peer does not.

"On one core" is the processor's time, which other programs do not lengthen as they do the clock's: the note
gives both.
"""

from __future__ import annotations

import operator
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import LeftOut, Row, Size, paired
from bench.sounds import recording
from birdsd.evaluation.judges import birdnet
from birdsd.evaluation.judges.sounds import hear_file
from birdsd.files import muted

_MIN_CONFIDENCE = 0.25


def run(size: Size) -> list[Row]:
    """How fast the judge is: beside real time, and beside the loop of the judge's own tool."""
    if not birdnet.installed():
        raise LeftOut(f"{birdnet.TITLE} is not installed ({birdnet.INSTALL})")
    seconds = size.of(60, 30, 3)
    judge = birdnet.find_judge()
    with tempfile.TemporaryDirectory() as folder:
        path = recording(Path(folder) / "song.wav", seconds, 44100)
        peer = Peer(judge)
        core_s: list[float] = []

        def ours() -> None:
            start = time.process_time()
            hear_file(judge, path, _MIN_CONFIDENCE)
            core_s.append(time.process_time() - start)

        pair = paired(ours, lambda: peer.analyse(path), repeats=size.of(7, 3, 1))
        logits = hear_file(judge, path, _MIN_CONFIDENCE).logits
        error = float(np.abs(logits - peer.logits(path)).max())
    speed, by_the_clock = seconds / statistics.median(core_s[1:]), seconds / pair.ours_s
    note = f"{1000 * birdnet.WINDOW_S / speed:.1f} ms a window; {by_the_clock:.0f}x by the clock"
    return [
        Row("judge", "BirdNET V2.4, one core: x real time", speed, 40.0, note=note),
        Row("judge", "the same vs BirdNET-Analyzer's loop", pair.speedup, 1.0),
        Row("judge", "largest difference of a clip's logits from it", error, 0.05, False, f"{error:.1e}"),
    ]


class Peer:
    """The plain loop: one window after the other."""

    def __init__(self, judge: birdnet.BirdNET) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.labels = list(judge.names)
        with muted(2):
            self.interpreter = Interpreter(str(judge.model), num_threads=1)
            self.interpreter.allocate_tensors()
        self.input = self.interpreter.get_input_details()[0]["index"]
        self.output = self.interpreter.get_output_details()[0]["index"]

    def windows(self, path: Path) -> list[np.ndarray]:
        import librosa

        sound, rate_hz = librosa.load(path, sr=birdnet.RATE_HZ, mono=True)
        size = int(birdnet.WINDOW_S * rate_hz)
        found = []
        for first in range(0, len(sound), size):
            window = sound[first : first + size]
            if len(window) < rate_hz:
                break
            found.append(np.pad(window, (0, size - len(window))))
        return found

    def predict(self, window: np.ndarray) -> np.ndarray:
        data = np.array([window], dtype="float32")
        self.interpreter.resize_tensor_input(self.input, [len(data), *data[0].shape])
        self.interpreter.allocate_tensors()
        self.interpreter.set_tensor(self.input, data)
        self.interpreter.invoke()
        return self.interpreter.get_tensor(self.output)[0]

    def analyse(self, path: Path) -> dict[int, list[tuple[str, float]]]:
        results = {}
        for number, window in enumerate(self.windows(path)):
            scores = 1 / (1.0 + np.exp(-np.clip(self.predict(window), -15, 15)))
            ordered = sorted(zip(self.labels, scores, strict=True), key=operator.itemgetter(1), reverse=True)
            results[number] = [one for one in ordered if one[1] >= _MIN_CONFIDENCE]
        return results

    def logits(self, path: Path) -> np.ndarray:
        return np.max([self.predict(window) for window in self.windows(path)], axis=0)
