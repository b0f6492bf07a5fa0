"""The codecs that presets describe."""

from __future__ import annotations

from pathlib import Path

import yaml

from birdsd.sound.codec.codec import SpectrogramCodec

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "codec"


def preset(name, **changes):
    return SpectrogramCodec.from_json({**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()), **changes})
