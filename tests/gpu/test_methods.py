"""Every method trains on the card in every number format, and learns there what it learns on the CPU."""

import numpy as np
import pytest
import torch

from tests.gpu.card import BATCH, saved, started, teach
from tests.support.taught import WAYS, exported
from tests.support.tiny import make_shards
from tests.support.toy import losses

pytestmark = pytest.mark.gpu
STEPS = 3
# Relative differences of a loss: of the first step, before anything was learnt, and of those after it. On a
# GPU convolutions of fp32 round to TF32.
TOLERANCES = {"fp32": (2e-3, 2e-2), "bf16": (3e-2, 0.15), "fp16": (1e-2, 5e-2)}
REHEARSED_IN_BF16 = ("full", "lora", "autoencoder")
FIRST_SCALE = 65536.0  # of the loss in fp16


@pytest.fixture(scope="module")
def on_cpu(pipeline_folder, tmp_path_factory):
    """way -> losses by position on the CPU in float32, made when it is first asked for."""
    made: dict[str, dict[int, float]] = {}

    def told(way: str, shards) -> dict[int, float]:
        if way not in made:
            run = tmp_path_factory.mktemp("cpu") / "run"
            teach(way, shards, pipeline_folder, run, device="cpu", precision="fp32")
            made[way] = losses(run)
        return made[way]

    return told


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("way", WAYS)
def test_three_steps_are_those_of_the_cpu(
    card, way, precision, shards, pipeline_folder, on_cpu, tmp_path, tmp_path_factory
):
    if precision == "fp16" and not card.is_gpu:
        pytest.skip("fp16 trains on GPUs only")
    if precision == "bf16" and not card.is_gpu and way not in REHEARSED_IN_BF16:
        pytest.skip("in bf16 some methods are rehearsed, all on GPUs only")
    expected = on_cpu(way, make_shards(tmp_path_factory.mktemp("cpu") / "shards"))
    events = teach(way, shards, pipeline_folder, tmp_path / "run", device=card.device, precision=precision)
    told = started(events)
    assert told["device"].startswith(card.device) and told["precision"] == precision
    found = losses(tmp_path / "run")
    positions = [BATCH * (step + 1) for step in range(STEPS)]
    assert list(found) == list(expected) == positions and np.isfinite(list(found.values())).all()
    first, later = TOLERANCES[precision]
    assert found[BATCH] == pytest.approx(expected[BATCH], rel=first)
    scale = (saved(tmp_path / "run", STEPS * BATCH)[1].get("loss_scaler") or {}).get("scale", FIRST_SCALE)
    if scale == FIRST_SCALE:  # else a step overflowed and was left out, as it should be
        for position in positions[1:]:
            assert found[position] == pytest.approx(expected[position], rel=later)
    given = exported(tmp_path / "run")
    assert given and all(torch.isfinite(value).all() for value in given.values() if value.is_floating_point())


def test_aesthetic_embeddings_are_those_of_the_cpu(card, shards, pipeline_folder, tmp_path):
    """The method that trains nothing: one pass of a CLIP over the pictures."""
    from birdsd.diffusion.methods import make_method
    from birdsd.shards.index import ShardIndex
    from birdsd.training.work import RunWork
    from tests.support.tiny import train_config

    teach("clip", shards, pipeline_folder, tmp_path / "clip", device="cpu", precision="fp32")
    made = []
    for device in ("cpu", card.device):
        config = train_config("aesthetic_gradients", init="pretrained", source=pipeline_folder)
        config.model.clip, config.machine.device = str(tmp_path / "clip" / "export"), device
        index, run = ShardIndex.open(shards), tmp_path / f"aesthetic-{len(made)}"
        result = RunWork(config, index, run).by(make_method(config, index))
        assert result.finished
        made.append(exported(run))
    assert made[0] and made[0].keys() == made[1].keys()
    for name, expected in made[0].items():
        torch.testing.assert_close(made[1][name], expected, rtol=2e-2, atol=2e-3)
