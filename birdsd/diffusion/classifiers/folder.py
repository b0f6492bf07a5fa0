"""A trained classifier as a folder (classifier.json, model.safetensors, codec.json), and what it says.

Nothing in the folder is code: the network is one of `network.NETWORKS`, built from classifier.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from birdsd.diffusion.classifiers.levels import Grid, Standard
from birdsd.diffusion.classifiers.network import build_network
from birdsd.diffusion.classifiers.place import CLASSIFIER, FORMAT, WEIGHTS, is_classifier
from birdsd.diffusion.networks.finite import NotFinite, check_finite
from birdsd.diffusion.networks.freed_memory import keep_freed_memory
from birdsd.errors import Damaged, NotFound, Unsupported, UserError
from birdsd.files import read_json, write_json
from birdsd.sound.codec.protocol import Codec

TOGETHER = 16  # windows a batch: fewer or more are slower on a CPU, if it keeps freed memory


@dataclass(frozen=True)
class Heard:
    """What a classifier says of windows: logits whose sigmoid is the score, float32 [n, classes]; embeddings
    float32 [n, width]; and logits of each frame, float32 [n, classes, steps], where it says when."""

    logits: np.ndarray
    embeddings: np.ndarray
    frames: np.ndarray | None


@dataclass
class Classifier:
    """A network in use, with what it was trained to be given."""

    network: Any
    settings: dict[str, Any]  # what `build_network` takes
    classes: tuple[str, ...]
    loss: str
    standard: Standard
    codec: Codec
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        self.grid = Grid(self.codec)

    @torch.no_grad()
    def hear(self, powers: Sequence[np.ndarray] | np.ndarray) -> Heard:
        """Of windows [n, bands, frames] of the grid (see `Grid.power`). Raises `UserError` for a network
        that answers with numbers that are not finite."""
        weight = next(self.network.parameters())
        parts: list[tuple[Tensor, Tensor, Tensor | None]] = []
        for start in range(0, len(powers), TOGETHER):
            some = torch.from_numpy(np.stack(list(powers[start : start + TOGETHER])))
            answer = self.network(self.standard.levels(some.to(weight.device)).to(weight.dtype))
            parts.append(
                (as_sigmoid_logits(answer.logits.float(), self.loss), answer.embedding, answer.frames)
            )
        logits = torch.cat([one[0] for one in parts]).cpu().numpy()
        if not np.isfinite(logits).all():
            raise NotFinite(
                f"the classifier gives {int((~np.isfinite(logits)).sum())} of {logits.size} logits that are "
                "not finite numbers",
                "its weights have diverged, or a recording holds what it cannot compute with",
                "train it again with a lower optim.learning_rate, or name the last one that worked",
            )
        frames = [one[2] for one in parts if one[2] is not None]
        return Heard(
            logits,
            torch.cat([one[1] for one in parts]).float().cpu().numpy(),
            torch.cat(frames).float().cpu().numpy() if frames else None,
        )


def as_sigmoid_logits(logits: Tensor, loss: str) -> Tensor:
    """Logits whose sigmoid is the probability: after cross entropy those of the softmax."""
    if loss != "cross_entropy":
        return logits
    logged = logits.log_softmax(dim=1)
    rest = torch.log1p(-logged.double().exp().clamp(max=1 - 1e-12))
    return (logged.double() - rest).float()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Scores in 0..1, float32."""
    scores: np.ndarray = (1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -30, 30)))).astype(np.float32)
    return scores


def write_classifier(folder: Path, made: Classifier, about: Mapping[str, Any]) -> None:
    """classifier.json and model.safetensors. `about` is kept beside what is needed to use it."""
    from safetensors.torch import save_file

    weights = {
        name: value.detach().float().contiguous().cpu() for name, value in made.network.state_dict().items()
    }
    check_finite(weights, "the trained classifier", "lower optim.learning_rate, and train it again")
    save_file(weights, str(folder / WEIGHTS))
    facts = {
        "format": FORMAT,
        "network": made.settings,
        "classes": list(made.classes),
        "loss": made.loss,
        "floor_db": made.standard.floor_db,
        "relative": made.standard.relative,
        "spectral_subtraction": made.standard.spectral_subtraction,
        "mean_db": list(made.standard.mean_db),
        "deviation_db": made.standard.deviation_db,
        "thresholds": [round(one, 6) for one in made.thresholds],
        **about,
    }
    write_json(folder / CLASSIFIER, facts)


def _without_weights(settings: Mapping[str, Any]) -> Any:
    """The network whose weights and buffers a file is to give: none is drawn for nothing. A backbone of timm
    has buffers that no file holds, and is built in full."""
    if settings["network"] == "timm":
        return build_network(settings)
    with torch.device("meta"):
        return build_network(settings)


def load_classifier(folder: Path, device: str = "cpu") -> Classifier:
    """The classifier in a folder (or in the export of a run's folder), ready for use; `UserError` for one
    that is not whole. On a CPU the process then keeps the memory that a batch frees, for the next one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = is_classifier(folder)
    if place is None:
        raise NotFound(
            f"{folder} holds no classifier",
            f"a classifier is a folder with {CLASSIFIER} and {WEIGHTS}",
            "name a finished run of method=classifier, or its export",
        )
    facts = read_json(place / CLASSIFIER, "classifier file")
    try:
        if facts["format"] != FORMAT:
            raise Unsupported(
                f"{place / CLASSIFIER} has the format '{facts['format']}'",
                f"this version of birdsd reads {FORMAT}",
                "use the version that wrote it",
            )
        codec = Codec.from_json(read_json(place / "codec.json", "the classifier's codec.json"))
        settings = {**facts["network"], "bare": True}
        network = _without_weights(settings)
        standard = Standard(
            float(facts["floor_db"]),
            bool(facts["relative"]),
            tuple(facts["mean_db"]),
            float(facts["deviation_db"]),
            float(facts.get("spectral_subtraction", 0.0)),  # older ones had none
        )
        classes, thresholds = tuple(facts["classes"]), tuple(float(one) for one in facts["thresholds"])
        if not len(classes) == len(thresholds) == settings["classes"]:
            raise ValueError(f"{len(classes)} classes and {len(thresholds)} thresholds")
        weights = load_file(str(place / WEIGHTS))
        check_finite(weights, place / WEIGHTS, "train it again, or name another one")
        network.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        if isinstance(error, UserError):
            raise
        raise Damaged(
            f"the classifier in {place} cannot be used: {str(error).splitlines()[0]}",
            f"{CLASSIFIER} and {WEIGHTS} belong together as birdsd wrote them",
            "copy the folder again, or export the run again",
        ) from error
    if device == "cpu":
        keep_freed_memory()
    network.eval().requires_grad_(False)
    network.to(device, memory_format=torch.channels_last)  # on a CPU nearly twice as fast
    return Classifier(
        network, dict(facts["network"]), classes, str(facts["loss"]), standard, codec, thresholds
    )
