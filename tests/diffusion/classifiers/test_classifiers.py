"""Networks, losses and augmentation of classifiers; what a folder of one says."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from birdsd.config import compose
from birdsd.diffusion.classifiers.augment import (
    Augmentation,
    Clip,
    check_settings,
    faster,
    higher,
    mixed,
)
from birdsd.diffusion.classifiers.backbone import with_group_norms
from birdsd.diffusion.classifiers.learner import ClassifierLearner, class_weights, named_right
from birdsd.diffusion.classifiers.levels import Grid, Standard, without_steady
from birdsd.diffusion.classifiers.network import build_network, frame_count
from birdsd.diffusion.classifiers.targets import Classes
from birdsd.diffusion.method_configs import ClassifierConfig
from birdsd.diffusion.parameters import of_classifier
from birdsd.errors import (
    BadValue,
    Mismatch,
    NothingLeft,
    NotSet,
    UnknownName,
    Unsupported,
    UserError,
)
from birdsd.files import write_json
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.tiny import CODEC

SETTINGS = {"network": "cnn", "classes": 3, "width": 8}


def network(**changes):
    torch.manual_seed(0)
    return build_network({**SETTINGS, **changes}).eval()


def levels(batch: int = 2, bands: int = 64, frames: int = 64) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(0).normal(size=(batch, 1, bands, frames)).astype(np.float32)
    )


# -- networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cnn", "crnn"])
def test_what_a_network_says_of_a_clip_does_not_depend_on_the_others(kind: str) -> None:
    made, given = network(network=kind), levels(4)
    with torch.no_grad():
        together, alone = made(given), [made(one[None]) for one in given]
    assert together.logits.shape == (4, 3) and together.embedding.shape == (4, made.embedding_width)
    for number, one in enumerate(alone):
        torch.testing.assert_close(together.logits[number], one.logits[0], rtol=1e-4, atol=1e-5)
    assert set(dict(made.named_buffers())) <= {"centre", "spread"}, "checkpoints hold no buffers"


def test_a_cnn_begins_with_features_of_one_size() -> None:
    made, given = network(), levels(40)
    before = made(given).embedding.detach().std(dim=0, correction=0)
    made.settle(given)
    after = made(given).embedding.detach()
    assert float(before.max() / before.min()) > 10
    torch.testing.assert_close(after.mean(dim=0), torch.zeros_like(before), atol=1e-3, rtol=0)
    assert ((after.std(dim=0, correction=0) - 1).abs() < 1e-2).float().mean() > 0.9, (
        "but for those that do not vary at all"
    )


@pytest.mark.parametrize("frames", [64, 63, 384, 17])
def test_a_crnn_says_as_many_frames_as_it_is_counted_to(frames: int) -> None:
    answer = network(network="crnn")(levels(1, 64, frames))
    assert answer.frames.shape == (1, 3, frame_count("crnn", frames))
    assert frame_count("cnn", frames) == 0 and network()(levels(1)).frames is None


def test_the_gru_is_torchs() -> None:
    made = network(network="crnn").recurrent
    torch.manual_seed(5)
    peer = nn.GRU(256, 16, batch_first=True, bidirectional=True)
    peer.load_state_dict(made.state_dict())
    x = torch.randn(2, 9, 256)
    torch.testing.assert_close(made(x), peer(x)[0])


def test_a_pitch_is_told_from_another() -> None:
    """The same stripe elsewhere: what is left of it after pooling over frequencies differs."""
    made, low = network(), torch.zeros(1, 1, 64, 64)
    high = low.clone()
    low[:, :, 20:24], high[:, :, 8:12] = 3, 3
    with torch.no_grad():
        assert (made(low).logits - made(high).logits).abs().max() > 1e-3


@pytest.mark.parametrize("words", [[], ["method.network=crnn"], ["method.width=16", "method.classes=[a, b]"]])
def test_parameters_are_counted_without_torch(words: list[str]) -> None:
    config = compose("train", ["method=classifier", *words])
    settings = config.method
    classes = len(settings.classes) or 7
    made = build_network({"network": settings.network, "classes": classes, "width": settings.width})
    assert of_classifier(config, {}, 7) == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize(
    ("changes", "named", "offers", "kind"),
    [
        ({"network": "rnn"}, "'rnn'", "crnn", UnknownName),
        ({"width": 20}, "method.width=20", "multiple of 8", BadValue),
        ({"network": "timm"}, "method.backbone", "method.backbone=resnet18", NotSet),
    ],
)
def test_a_network_that_cannot_be_is_refused(
    changes: dict, named: str, offers: str, kind: type[UserError]
) -> None:
    with refuses(named, offers, kind=kind):
        build_network({**SETTINGS, **changes})


def test_a_backbone_needs_timm_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("birdsd.diffusion.classifiers.backbone.find_spec", lambda name: None)
    with refuses(
        ("method.backbone=resnet18", "timm"), "pip install timm", "method.network=cnn", kind=Unsupported
    ):
        network(network="timm", backbone="resnet18")


class Body(nn.Module):
    """As timm's models are called; timm itself has no build for this machine."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x):
        return functional.relu(self.norm(self.conv(x))).mean(dim=(2, 3))


def stand_in_for_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = ModuleType("timm")
    timm.__version__ = "0"
    timm.is_model = lambda name: name == "body"
    timm.create_model = lambda name, **_: Body()
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setattr("birdsd.diffusion.classifiers.backbone.find_spec", lambda name: object())


def test_a_backbone_from_scratch_knows_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_for_timm(monkeypatch)
    made = network(network="timm", backbone="body").train()
    assert not dict(made.named_buffers())
    assert isinstance(made.body.norm, nn.GroupNorm)
    torch.testing.assert_close(made(levels(4)).logits[:1], made(levels(4)[:1]).logits)
    with refuses("'bodi'", "timm.list_models()", kind=UnknownName):
        network(network="timm", backbone="bodi")


def test_a_backbone_from_a_folder_keeps_its_statistics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    stand_in_for_timm(monkeypatch)
    body = Body()
    body.norm.running_mean.fill_(0.5)
    write_json(tmp_path / "config.json", {"architecture": "body"})
    state = body.state_dict()
    state["conv.weight"] = (state["conv.weight"] / 3).repeat(1, 3, 1, 1)  # as of colours
    save_file(state, str(tmp_path / "model.safetensors"))
    made = network(network="timm", backbone=str(tmp_path)).train()
    torch.testing.assert_close(made.body.conv.weight, body.conv.weight)
    made(levels(4))
    assert not made.body.norm.training and (made.body.norm.running_mean == 0.5).all()


def test_activations_fused_to_a_norm_stay() -> None:
    class Fused(nn.BatchNorm2d):
        def __init__(self) -> None:
            super().__init__(12)
            self.act = nn.ReLU()

    whole = nn.Sequential(nn.Conv2d(1, 12, 1), Fused())
    with_group_norms(whole)
    assert (whole(levels()) >= 0).all() and whole(levels()).max() > 0


# -- what they hear ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["birdsong", "birdsong-small", "birdsong-tiny", "birdsong-3s", "riffusion"])
def test_the_grid_is_about_as_coarse_whatever_the_codec(codec: str) -> None:
    made = SpectrogramCodec.from_config(compose("prepare", [f"codec={codec}"]).codec)
    grid = Grid(made)
    assert grid.bands == 64 and made.clip_s / grid.frames <= 0.0105
    image = np.random.default_rng(0).integers(0, 256, made.image_shape, dtype=np.uint8)
    whole = (made.dequantise(image).astype(np.float64) ** 2)[0].T[::-1]
    power = grid.power(image)
    assert power.shape == (grid.bands, grid.frames)
    assert power.mean() == pytest.approx(whole.mean(), rel=1e-4), "energy is kept"
    high, wide = made.bands // 64, grid.together
    assert power[1, 2] == pytest.approx(whole[high : 2 * high, 2 * wide : 3 * wide].mean(), rel=1e-4)


def test_a_codec_of_any_number_of_bands_keeps_its_energy() -> None:
    for bands in (32, 40, 64, 96):
        made = dataclasses.replace(CODEC, bands=bands, n_fft=512)
        image = np.random.default_rng(0).integers(0, 256, made.image_shape, dtype=np.uint8)
        whole = (made.dequantise(image).astype(np.float64) ** 2)[0].T[::-1]
        power = Grid(made).power(image)
        assert power.shape == (64, made.frames) and power.mean() == pytest.approx(whole.mean(), rel=1e-4)
        half = whole[: bands // 2].mean()  # high stays high
        assert power[:32].mean() == pytest.approx(half, rel=1e-4)


def test_levels_have_the_mean_and_deviation_of_training() -> None:
    powers = [10 ** np.random.default_rng(k).uniform(-8, -2, (64, 32)).astype(np.float32) for k in range(4)]
    standard = Standard.of(powers, -120.0, False, "shards")
    made = standard.levels(torch.from_numpy(np.stack(powers)))
    assert made.mean(dim=(0, 1, 3)).abs().max() < 1e-3 and float(made.std()) == pytest.approx(1, abs=1e-2)
    louder = standard.levels(torch.from_numpy(np.stack(powers)) * 10)
    assert float((louder - made).mean() * standard.deviation_db) == pytest.approx(10, abs=0.01)


def test_relative_levels_know_no_gain_and_no_pauses() -> None:
    power = torch.from_numpy(clip().power)[None]
    standard = Standard(-50.0, True, (0.0,) * 64, 1.0)
    torch.testing.assert_close(standard.levels(power * 1e-3), standard.levels(power), rtol=1e-3, atol=1e-3)
    paused = torch.cat([power, torch.zeros_like(power)], dim=2)
    torch.testing.assert_close(
        standard.levels(paused)[..., :64], standard.levels(power), rtol=1e-3, atol=1e-3
    )
    assert standard.levels(torch.zeros_like(power)).isfinite().all()


def test_what_is_always_there_is_taken_off_and_the_bird_stays() -> None:
    noise = np.random.default_rng(0).exponential(1e-6, (64, 384)).astype(np.float32)
    noise *= np.linspace(0.1, 10, 64, dtype=np.float32)[:, None]  # another place has another slope
    power = noise.copy()
    power[10, ::2] += 1e-2  # a trill, half of the time
    power[20] += 1e-3  # a hum
    left = without_steady(torch.from_numpy(power)[None], 2.0)[0].numpy()
    assert left[10, ::2] == pytest.approx(1e-2, rel=1e-2) and left[20].max() < 0.1 * 1e-3
    rest = np.delete(left, (10, 20), axis=0).sum() / np.delete(power, (10, 20), axis=0).sum()
    assert rest < 0.7 and (left >= 0).all()
    assert torch.equal(without_steady(torch.from_numpy(power), 0.0), torch.from_numpy(power))
    elsewhere = nn.Parameter(torch.from_numpy(power)[None])  # not of Tensor's own type: by topk
    torch.testing.assert_close(without_steady(elsewhere, 2.0)[0].detach().numpy(), left, rtol=0, atol=0)
    one = Standard(-50.0, True, (0.0,) * 64, 1.0, 2.0)
    quieter = np.concatenate([power, np.zeros_like(power)], axis=1)  # a short recording ends in silence
    assert one.levels(torch.from_numpy(quieter)[None]).isfinite().all()


@pytest.mark.parametrize("powers", [[np.zeros((64, 8))], [np.full((64, 8), 1e-3)] * 2, []])
def test_silence_teaches_nothing(powers: list) -> None:
    with refuses("shards", "birdsd inspect", kind=NothingLeft):
        Standard.of(powers, -80.0, False, "shards")


# -- losses -----------------------------------------------------------------------------------------


def loss_of(logits, target, **changes) -> torch.Tensor:
    learner = ClassifierLearner(nn.Identity(), ClassifierConfig(**changes), torch.ones(3))
    return learner.of_logits(torch.tensor(logits), torch.tensor(target))


def test_losses_are_those_of_torch() -> None:
    logits, target = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1.0, 0.0, 0.0]])
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    torch.testing.assert_close(loss_of(logits.tolist(), target.tolist())[0], bce)
    cross = functional.cross_entropy(logits, torch.tensor([0]), label_smoothing=0.2)
    ours = loss_of(logits.tolist(), target.tolist(), loss="cross_entropy", smoothing=0.2)
    torch.testing.assert_close(ours[0], cross)
    plain = loss_of(logits.tolist(), target.tolist(), loss="focal", focal_gamma=0.0, focal_alpha=0.5)
    torch.testing.assert_close(plain[0], bce / 2)
    sure, unsure = [[6.0, -6.0, -6.0]], [[0.1, -0.1, -0.1]]
    ratio = [
        float(loss_of(one, target.tolist(), loss="focal") / loss_of(one, target.tolist()))
        for one in (sure, unsure)
    ]
    assert ratio[0] < 1e-3 < ratio[1], "the easy one counts less"


def test_rare_classes_weigh_more() -> None:
    weight = class_weights(np.array([1, 4, 16]), 0.5)
    torch.testing.assert_close(weight / weight[2], torch.tensor([4.0, 2.0, 1.0]))
    assert float(weight.mean()) == pytest.approx(1)
    assert (class_weights(np.array([1, 4, 16]), 0.0) == 1).all()


def test_named_right_counts_any_class_that_is_there() -> None:
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, -2.0], [1.0, -2.0]])
    target = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert named_right(logits, target).tolist() == [1, 0, 1, 0]


def test_frames_count_only_where_labels_say_when() -> None:
    made = network(network="crnn", classes=2)
    learner = ClassifierLearner(made, ClassifierConfig(network="crnn"), torch.ones(2))
    steps = frame_count("crnn", 64)
    batch = {"levels": levels(2), "target": torch.eye(2), "frames": torch.ones(2, 2, steps)}
    known = learner({**batch, "frames_known": torch.tensor([1.0, 0.0])})
    unknown = learner({**batch, "frames_known": torch.zeros(2)})
    assert known[0] > unknown[0] and known[1] == unknown[1]


# -- labels -----------------------------------------------------------------------------------------


def test_boxes_become_frames() -> None:
    classes = Classes(("Robin", "Wren"))
    label = {"label": "Wren", "start_s": 1.0, "end_s": 2.0}
    found, known = classes.frames({"species": ["Wren"], "labels": [label]}, 8, 4.0)
    assert known and found[1].tolist() == [0, 0, 1, 1, 0, 0, 0, 0] and not found[0].any()
    weak = {"label": "Wren", "start_s": None, "end_s": None}
    found, known = classes.frames({"species": ["Wren"], "labels": [label, weak]}, 8, 4.0)
    assert not known and not found.any()
    assert classes.frames({"species": []}, 8, 4.0)[1], "no bird in any frame"
    assert not classes.frames({"species": ["Wren"]}, 8, 4.0)[1], "shards of others say no times"


# -- augmentation -----------------------------------------------------------------------------------

EACH = {
    "mixup": {"mixup": 1.0},
    "background": {"background": 1.0},
    "shift": {"shift_s": 0.2},
    "gain": {"gain_db": 6.0},
    "equaliser": {"equaliser_db": 6.0},
    "pitch": {"pitch_shift": 0.1},
    "tempo": {"time_stretch": 0.2},
    "masks": {"band_masks": 2, "time_masks": 2, "mask_share": 0.3},
}


def clip(seed: int = 0, wren: bool = False) -> Clip:
    power = np.random.default_rng(seed).uniform(1e-6, 1e-3, (64, 64)).astype(np.float32)
    target = np.array([not wren, wren], np.float32)
    frames = np.zeros((2, 8), np.float32)
    frames[int(wren), 2:4] = 1
    return Clip(power, target, frames, True)


def augmentation(**settings) -> Augmentation:
    empty = Clip(clip(9).power, np.zeros(2, np.float32), np.zeros((2, 8), np.float32), True)
    return Augmentation(
        ClassifierConfig(**settings), 3, 0.008, lambda draw: clip(5, True), lambda draw: empty
    )


@pytest.mark.parametrize("kind", EACH)
def test_each_kind_works_alone_and_is_a_function_of_the_position(kind: str) -> None:
    alone = augmentation(**EACH[kind])
    first, again, other = alone(clip(), 7), augmentation(**EACH[kind])(clip(), 7), alone(clip(), 8)
    assert np.array_equal(first.power, again.power)
    assert not np.array_equal(first.power, other.power)
    assert first.power.dtype == np.float32 and (first.power >= 0).all()
    assert any(not np.array_equal(alone(clip(), k).power, clip().power) for k in range(4))


def test_none_of_them_is_the_clip_itself() -> None:
    assert np.array_equal(augmentation()(clip(), 3).power, clip().power)


def test_switching_one_on_leaves_the_draws_of_the_others() -> None:
    gain = augmentation(gain_db=6.0)(clip(), 4).power / clip().power
    both = augmentation(gain_db=6.0, shift_s=0.2)(clip(), 4).power.sum() / clip().power.sum()
    assert both == pytest.approx(float(gain.mean()), rel=1e-4)


def test_mixed_up_labels_are_the_union() -> None:
    made = augmentation(mixup=1.0)(clip(), 1)
    assert made.target.tolist() == [1, 1] and made.frames[:, 2:4].all()
    over = augmentation(background=1.0)(clip(), 1)
    assert over.target.tolist() == [1, 0]


def test_powers_add_up_at_the_ratio() -> None:
    ours, theirs = clip().power, clip(5).power
    made = mixed(ours, theirs, 10.0)
    assert ours.sum() / (made - ours).sum() == pytest.approx(10, rel=1e-3)
    silence = np.zeros_like(ours)
    assert np.array_equal(mixed(ours, silence, 3.0), ours)
    assert np.array_equal(mixed(silence, theirs, 3.0), theirs)


def test_a_shift_takes_the_frames_along() -> None:
    made = augmentation(shift_s=0.256)  # half the clip
    for position in range(8):
        one = made(clip(), position)
        at = int(np.argmax((one.power == clip().power[:, 0][:, None]).all(axis=0)))
        expected = np.roll(clip().frames, round(at * 8 / 64), axis=1)
        assert np.array_equal(one.frames, expected) or at % 8, "to half a step"


def test_a_pitch_rises_by_its_factor_and_stays_as_long() -> None:
    tone = np.zeros((64, 10), np.float32)
    tone[63 - 40] = 1  # 40 bands above the lowest
    for factor, band in ((1.1, 44), (0.9, 36), (1.0, 40)):
        made = higher(tone, factor)
        assert made.shape == tone.shape and made.dtype == np.float32
        assert (made.argmax(axis=0) == 63 - band).all() and made.max() == pytest.approx(1)
    assert np.array_equal(higher(clip().power, 1.0), clip().power)
    lower = higher(np.ones((64, 10), np.float32), 0.5)
    assert (lower == 1).all(), "beyond the highest band it is as there"


def test_a_faster_song_is_shorter_and_its_labels_go_along() -> None:
    power, frames = np.zeros((64, 80), np.float32), np.zeros((2, 8), np.float32)
    power[:, 40:60], frames[1, 4:6] = 1, 1
    made = faster(Clip(power, np.ones(2, np.float32), frames, True), 1.25)
    assert np.flatnonzero(made.power[0] > 0.5).tolist() == list(range(32, 48))
    assert made.frames[1].tolist() == [0, 0, 0, 1, 1, 0, 0, 0] and made.power.shape == power.shape
    slower = faster(Clip(power, np.ones(2, np.float32), frames[:, :0], False), 0.8)
    assert np.flatnonzero(slower.power[0] > 0.5).tolist() == list(range(50, 75))
    assert slower.frames.shape == (2, 0)


@pytest.mark.parametrize("name", ["mixup", "mask_share", "dropout", "gain_db", "floor_db"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    with refuses(f"method.{name}=1e", f"method.{name}=", kind=BadValue):
        check_settings(ClassifierConfig(**{name: 1e9}))
    check_settings(ClassifierConfig())
    with refuses(("background_snr_low_db=40", "background_snr_high_db="), kind=Mismatch):
        check_settings(ClassifierConfig(background_snr_low_db=40.0))
