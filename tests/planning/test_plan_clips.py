"""`birdsd plan generate` for a model that is here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from birdsd.cli.plan import plan
from birdsd.format import size


def test_a_model_that_is_here_is_planned_as_it_is(pipeline_folder: Path, tmp_path: Path) -> None:
    """Shapes from its own files, not from a preset; of an adapter those of the model underneath."""
    on_disk = sum(path.stat().st_size for path in (pipeline_folder / "unet").glob("*.safetensors"))
    facts, _ = plan("generate", [f"run={pipeline_folder}", "machine=smoke"])
    assert facts["networks"]["unet"] == pytest.approx(on_disk, rel=0.05) and facts["notes"] == []
    added = tmp_path / "lora"
    added.mkdir()
    told = {"kind": "lora", "base": {"source": str(pipeline_folder)}}
    (added / "training.json").write_text(json.dumps(told))
    shutil.copy(pipeline_folder / "codec.json", added)
    assert plan("generate", [f"run={added}", "machine=smoke"])[0]["networks"] == facts["networks"]
    assert not facts["personalises"]
    (added / "training.json").write_text(json.dumps({**told, "kind": "aesthetic"}))
    tuned, text = plan("generate", [f"run={added}", "machine=smoke"])
    assert tuned["personalises"] and size(tuned["personalisation"]) in text and "(none " not in text
    more = max(0, tuned["personalisation"] - max(tuned["activations"].values()))
    assert tuned["device_bytes"]["none"] == facts["device_bytes"]["none"] + more
