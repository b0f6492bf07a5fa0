"""The folder of a classifier: what it says, what is refused of it, and its export to ONNX."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from birdsd.diffusion.classifiers.folder import (
    Classifier,
    as_sigmoid_logits,
    load_classifier,
    write_classifier,
)
from birdsd.diffusion.classifiers.levels import Standard
from birdsd.diffusion.classifiers.network import build_network
from birdsd.diffusion.classifiers.place import CLASSIFIER, WEIGHTS
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import (
    Damaged,
    NotFound,
    Unsupported,
    UserError,
)
from birdsd.files import write_json
from tests.support.errors import refuses
from tests.support.tiny import CODEC

SETTINGS = {"network": "cnn", "classes": 3, "width": 8}


def network(**changes):
    torch.manual_seed(0)
    return build_network({**SETTINGS, **changes}).eval()


def power(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(1e-6, 1e-3, (64, 64)).astype(np.float32)


def classifier(**changes) -> Classifier:
    settings = {**SETTINGS, **changes}
    standard = Standard(-80.0, False, (-60.0,) * 64, 12.0, 2.0)
    return Classifier(network(**settings), settings, ("A", "B", "C"), "bce", standard, CODEC, (0.5, 0.4, 0.6))


def written(folder: Path, **changes) -> Classifier:
    made = classifier(**changes)
    write_classifier(folder, made, {})
    write_json(folder / "codec.json", CODEC.to_json())
    return made


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_a_folder_says_what_was_trained(kind: str, tmp_path: Path) -> None:
    made, powers = written(tmp_path, network=kind), [power(k) for k in range(3)]
    ours, theirs = made.hear(powers), load_classifier(tmp_path).hear(powers)
    np.testing.assert_allclose(ours.logits, theirs.logits, atol=1e-5)
    np.testing.assert_allclose(ours.embeddings, theirs.embeddings, rtol=1e-5, atol=1e-5)
    assert (ours.frames is None) == (kind == "cnn")
    assert load_classifier(tmp_path).thresholds == (0.5, 0.4, 0.6)


def test_the_score_after_cross_entropy_is_the_softmax() -> None:
    logits = torch.tensor([[3.0, 1.0, -2.0], [60.0, 0.0, -60.0]])
    made = as_sigmoid_logits(logits, "cross_entropy")
    torch.testing.assert_close(made.sigmoid(), logits.softmax(dim=1), rtol=1e-4, atol=1e-6)
    assert made.isfinite().all()


def broken(folder: Path, how: str) -> None:
    facts = json.loads((folder / CLASSIFIER).read_text())
    if how == "no weights":
        (folder / WEIGHTS).unlink()
    elif how == "torn weights":
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100])
    elif how == "another width":
        write_json(folder / CLASSIFIER, {**facts, "network": {**facts["network"], "width": 16}})
    elif how == "a class less":
        write_json(folder / CLASSIFIER, {**facts, "classes": ["A", "B"]})
    elif how == "another format":
        write_json(folder / CLASSIFIER, {**facts, "format": "birdsd-classifier-9"})
    else:
        (folder / CLASSIFIER).unlink()


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("no weights", Damaged), ("torn weights", Damaged), ("another width", Damaged),
        ("a class less", Damaged), ("another format", Unsupported), ("no file", NotFound),
    ],
)  # fmt: skip
def test_a_folder_that_is_not_whole_is_named(how: str, kind: type[UserError], tmp_path: Path) -> None:
    written(tmp_path)
    broken(tmp_path, how)
    with refuses(str(tmp_path), kind=kind):
        load_classifier(tmp_path)


def test_weights_or_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    made = classifier()
    with torch.no_grad():
        made.network.head.bias[1] = float("nan")
    with refuses("1 of 3 logits", "optim.learning_rate", kind=NotFinite):
        made.hear([power()])
    with refuses("bias", kind=NotFinite):
        write_classifier(tmp_path, made, {})
    assert not (tmp_path / WEIGHTS).exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_onnx_says_what_torch_says(kind: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from birdsd.diffusion.classifiers.onnx_file import write_onnx

    made = dataclasses.replace(classifier(network=kind), loss="cross_entropy")
    write_onnx(made, tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"), providers=["CPUExecutionProvider"])
    powers = np.stack([power(k) for k in range(5)])
    scores = session.run(["scores"], {"power": powers})[0]
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-made.hear(powers).logits)), atol=1e-4)
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["A", "B", "C"]


def test_onnx_without_its_packages_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from birdsd.diffusion.classifiers import onnx_file

    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with refuses(("--format onnx", "onnxruntime"), "birdsd[onnx]", kind=Unsupported):
        onnx_file.write_onnx(classifier(), tmp_path / "a.onnx")
