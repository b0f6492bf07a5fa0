"""The signature of a training: a hash of what decides what is learnt. Runs are found again by it."""

from __future__ import annotations

import dataclasses

from birdsd import schema
from birdsd.files import fingerprint


def signature(config: schema.TrainConfig, **fingerprints: str) -> str:
    """A hash of what decides the learning: the scientific sections and what they point to.

    Paths are left out and come in as `fingerprints` (the data's, the autoencoder's) instead, so
    that the same run on another machine, or in another folder, has the same signature. A field at its
    default is left out too: a setting that a later version adds does not make another run of an old one;
    neither does it matter whether a run says what is usual, or leaves it open.
    """
    plain = dataclasses.asdict(config)
    science = {name: plain[name] for name in schema.SCIENTIFIC}
    for section in ("model", "method"):
        defaults = dataclasses.asdict(type(getattr(config, section))())
        values = science[section]
        science[section] = {k: v for k, v in values.items() if v != defaults[k] or k == "name"}
    for name, usual in schema.NOISE_DEFAULTS.items():
        if science["method"].get(name) == usual:
            del science["method"][name]
    if science["optim"].get("optimizer") in (None, schema.OPTIM_DEFAULTS["optimizer"]):
        science["optim"].pop("optimizer", None)
    for name in (*schema.MODEL_KEYS, "recommended", "name"):
        science["model"].pop(name, None)
    return fingerprint({**science, **fingerprints}, length=12)
