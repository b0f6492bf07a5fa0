"""A classifier as an ONNX file, for programs without torch; checked against torch before it is written.

Its input is `power` [batch, bands, frames], the squared magnitudes of the codec on the classifier's grid; its
outputs are `scores` [batch, classes], the `embedding` and, of a CRNN, `frames` [batch, classes, steps].
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from birdsd.diffusion.classifiers.folder import Classifier, as_sigmoid_logits
from birdsd.errors import Mismatch, Unsupported
from birdsd.files import atomic_write
from birdsd.randomness import generator

INSTALL = "pip install 'birdsd[onnx]'"
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CLOSE = 1e-4  # of scores and, relative to their size, of embeddings
_CHECKED = (1, 3)  # batches


class Whole(nn.Module):
    """From power to scores."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network, self.classifier = classifier.network, classifier

    def forward(self, power: Tensor) -> tuple[Tensor, ...]:
        """power [B, bands, frames] -> scores [B, classes], embedding, and frames where there are any."""
        answer = self.network(self.classifier.standard.levels(power))
        scores = as_sigmoid_logits(answer.logits, self.classifier.loss).sigmoid()
        frames = () if answer.frames is None else (answer.frames.sigmoid(),)
        return scores, answer.embedding, *frames


def write_onnx(classifier: Classifier, path: Path) -> float:
    """Write the file; returns the largest difference of a score from torch's. `UserError` where a package is
    missing, or where onnxruntime does not say the same as torch."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise Unsupported(
            f"--format onnx needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not "
            "installed",
            "they write, check and run the file",
            INSTALL,
        )
    import onnx

    whole = Whole(classifier).eval()
    example = torch.rand(2, classifier.grid.bands, classifier.grid.frames) * 1e-4
    buffer = io.BytesIO()
    names = ["scores", "embedding", *(["frames"] if len(whole(example)) > 2 else [])]
    with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"):
        warnings.simplefilter("ignore")
        made: Any = torch.onnx.export(
            whole, (example,), input_names=["power"], output_names=names, dynamo=True, verbose=False,
            dynamic_shapes={"power": {0: torch.export.Dim("batch")}},
        )  # fmt: skip
        made.save(buffer)
    model = onnx.load_model_from_string(buffer.getvalue())
    told = {
        "classes": json.dumps(list(classifier.classes)),
        "thresholds": json.dumps(list(classifier.thresholds)),
        "codec": json.dumps(classifier.codec.to_json()),
    }
    onnx.helper.set_model_props(model, told)
    data = model.SerializeToString()
    difference = _difference(whole, data, classifier)
    with atomic_write(path) as stream:
        stream.write(data)
    return difference


def _difference(whole: Whole, data: bytes, classifier: Classifier) -> float:
    """The largest difference of a score between onnxruntime and torch; `UserError` for one that matters."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    largest = 0.0
    for count in _CHECKED:
        draw = generator(0, "onnx", count)
        power = 10 ** draw.uniform(-9, -2, (count, classifier.grid.bands, classifier.grid.frames))
        given = power.astype(np.float32)
        with torch.no_grad():
            ours = [one.numpy() for one in whole(torch.from_numpy(given))]
        theirs = session.run(None, {"power": given})
        for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            scale = 1.0 if number != 1 else max(1.0, float(np.abs(mine).max()))
            difference = float(np.abs(mine - other).max()) / scale
            if not difference <= _CLOSE:
                raise Mismatch(
                    f"the ONNX file says something else than torch: a difference of {difference:.2g}",
                    f"{_CLOSE:g} is allowed; nothing was written",
                    "install other versions of onnx and onnxruntime",
                )
            largest = max(largest, difference) if number == 0 else largest
    return largest


class _quiet:
    """Loggers that speak of what nobody asked."""

    def __init__(self, *names: str) -> None:
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [one.level for one in self.loggers]
        for one in self.loggers:
            one.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for one, level in zip(self.loggers, self.levels, strict=True):
            one.setLevel(level)
