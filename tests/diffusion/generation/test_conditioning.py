"""img2img against diffusers' own pipeline; inpainting by what it keeps; and what cannot be started from."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.conditioning import (
    KnownLatents,
    Span,
    Start,
    first_step,
    keep_outside,
    keep_sound,
    known_latents,
    split_offset,
)
from birdsd.diffusion.generation.generate import Generator
from birdsd.errors import BadValue, Damaged, NotFound, NothingLeft
from birdsd.sound.audio.recordings import write_wav
from birdsd.sound.audio.source import RecordingError
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.tiny import CODEC

STEPS = 5


@pytest.fixture(scope="module")
def model(pipeline_folder):
    return Generator(pipeline_folder)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two seconds: a rising tone of a second and another."""
    time_s = np.arange(32000) / 16000
    tone = 0.3 * np.sin(2 * np.pi * (1000 + 1500 * time_s) * time_s)
    path = tmp_path_factory.mktemp("recordings") / "tone.wav"
    write_wav(path, tone.astype(np.float32), 16000)
    return path


def sample(model, guide, steps=STEPS, scheduler="ddim", noise=None, count=1):
    parts = model.pipeline
    noise = sampling.initial_noise(7, range(count), (4, 8, 16)) if noise is None else noise
    text = ["an American Robin"] * len(noise)
    return sampling.sample_latents(
        parts.unet,
        sampling.make_scheduler(scheduler, parts.scheduler.config),
        sampling.encode_texts(parts.text_encoder, parts.tokenizer, text),
        sampling.encode_texts(parts.text_encoder, parts.tokenizer, [""] * len(noise)),
        noise,
        steps=steps,
        guidance=3.0,
        generators=[sampling.torch_generator(7, "sampler", k) for k in range(len(noise))],
        guide=guide,
    )


def guide_of(model, start, strength, span=None, steps=STEPS):
    return known_latents(start, model.pipeline.vae, CODEC, first_step(steps, strength), span)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++", "heun", "unipc"])
@pytest.mark.parametrize("strength", [0.4, 0.6, 0.8])
def test_img2img_is_that_of_diffusers(model, recording, strength, scheduler):
    from diffusers import StableDiffusionImg2ImgPipeline

    start = Start.read(str(recording), CODEC)
    parts = model.pipeline
    unet = copy.deepcopy(parts.unet)
    unet.register_to_config(sample_size=64)  # this pipeline takes a number only, and does not use it
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=parts.vae, text_encoder=parts.text_encoder, tokenizer=parts.tokenizer, unet=unet,
        scheduler=sampling.make_scheduler(scheduler, parts.scheduler.config), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    latents = start.latents(parts.vae)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    theirs = pipeline(
        "an American Robin", image=latents, strength=strength, num_inference_steps=STEPS, guidance_scale=3.0,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    # diffusers scales what it encodes itself, and takes latents that are given as they are.
    ours = sample(model, KnownLatents(latents, first_step(STEPS, strength)), scheduler=scheduler, noise=noise)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("scheduler", sorted(sampling.SCHEDULERS))
def test_the_ends_of_strength(model, recording, scheduler):
    start = Start.read(str(recording), CODEC)
    unchanged = sample(model, guide_of(model, start, 0.0), scheduler=scheduler)
    assert torch.equal(unchanged, start.latents(model.pipeline.vae))
    anew = sample(model, guide_of(model, start, 1.0), scheduler=scheduler)
    assert torch.equal(anew, sample(model, None, scheduler=scheduler))


def test_the_latents_are_those_that_training_sees(model, recording):
    from birdsd.diffusion.networks.models import to_range

    start = Start.read(str(recording), CODEC)
    vae = model.pipeline.vae
    with torch.no_grad():
        mean = vae.encode(to_range(torch.from_numpy(CODEC.from_rgb(start.picture))[None])).latent_dist.mean
    assert torch.allclose(start.latents(vae), mean * vae.config.scaling_factor, atol=1e-6)


def test_more_strength_goes_further_from_the_recording(model, recording):
    start = Start.read(str(recording), CODEC)
    latents = start.latents(model.pipeline.vae)
    noise = sampling.initial_noise(0, [0], latents.shape[1:])
    schedule = sampling.make_scheduler("ddim", model.pipeline.scheduler.config)
    schedule.set_timesteps(10)
    distances = []
    for strength in (0.2, 0.5, 0.9):
        guide = KnownLatents(latents, first_step(10, strength))
        begun = guide.begin(schedule, noise, schedule.timesteps[guide.skipped :])
        distances.append((begun - latents).norm().item())
    assert distances == sorted(distances) and distances[0] < 0.7 * distances[2]


@pytest.mark.parametrize("scheduler", sorted(sampling.SCHEDULERS))
def test_outside_the_stretch_the_known_latents_stay(model, recording, scheduler):
    start = Start.read(str(recording), CODEC)
    span = Span.of(0.1, 0.3, CODEC.clip_s)
    guide = guide_of(model, start, 1.0, span)
    known = start.latents(model.pipeline.vae)
    found = sample(model, guide, scheduler=scheduler, count=2)
    inside = guide.anew
    # The clip lasts 0.512 s and is 16 columns wide: 0.1-0.3 s touches columns 3 to 9.
    assert inside.nonzero().flatten().tolist() == list(range(3, 10))
    assert torch.equal(found[..., ~inside], known.expand_as(found)[..., ~inside])
    assert (found - known)[..., inside].abs().mean() > 0.1
    assert not torch.equal(found[0], found[1])


def test_at_every_step_the_known_part_has_the_noise_of_that_step(model, recording, monkeypatch):
    start = Start.read(str(recording), CODEC)
    guide = guide_of(model, start, 0.6, Span.of(0.1, 0.3, CODEC.clip_s))
    known, noise = start.latents(model.pipeline.vae), sampling.initial_noise(1, [0], (4, 8, 16))
    abar = sampling.make_scheduler("ddim", model.pipeline.scheduler.config).alphas_cumprod
    unet, seen = model.pipeline.unet, []
    whole = unet.forward

    def watch(latents, step, **more):
        seen.append((int(step), latents[-1].clone()))
        return whole(latents, step, **more)

    monkeypatch.setattr(unet, "forward", watch)
    sample(model, guide, noise=noise)
    assert len(seen) == 3
    for step, latents in seen:
        expected = abar[step] ** 0.5 * known[0] + (1 - abar[step]) ** 0.5 * noise[0]
        outside = ~guide.anew
        assert torch.allclose(latents[..., outside], expected[..., outside], atol=1e-5)


def test_pixels_and_samples_outside_the_stretch_are_kept(model, recording):
    start = Start.read(f"{recording}@0.5", CODEC)
    span = Span.of(0.1, 0.3, CODEC.clip_s)
    made = np.full((1, CODEC.bands, CODEC.frames, 3), 77, np.uint8)
    (picture,) = keep_outside(made, start, span, CODEC)
    seconds = (np.arange(CODEC.frames) + 0.5) * CODEC.clip_s / CODEC.frames
    inside = (seconds > 0.1) & (seconds < 0.3)
    assert np.array_equal(picture[:, ~inside], start.picture[:, ~inside])
    assert (picture[:, (seconds > 0.13) & (seconds < 0.27)] == 77).all()
    sound = keep_sound(np.zeros((1, CODEC.samples_per_clip), np.float32), start, span, CODEC)
    time_s = (np.arange(CODEC.samples_per_clip) + 0.5) / CODEC.rate_hz
    assert np.array_equal(
        sound[:, (time_s < 0.1) | (time_s > 0.3)], start.waveform[:, (time_s < 0.1) | (time_s > 0.3)]
    )
    assert not sound[:, (time_s > 0.13) & (time_s < 0.27)].any()
    # No jump at the seams: from one sample to the next it changes no more than the recording does.
    assert np.abs(np.diff(sound)).max() <= np.abs(np.diff(start.waveform)).max() * 1.05


def test_a_stretch_may_reach_the_ends_or_be_very_short():
    span = Span.of(None, 0.256, 0.512)
    assert span == Span(0.0, 0.256)
    assert span.weights(64, 0.512)[:28].tolist() == 28 * [1.0]
    assert Span.of(0.3, None, 0.512).weights(64, 0.512)[-20:].tolist() == 20 * [1.0]
    short = Span.of(0.2001, 0.2002, 0.512)
    assert short.touched(16, 0.512).sum() == 1 and short.weights(64, 0.512).sum() == 1
    assert Span.of(None, None, 0.512) is None
    assert Span.of(0.0, 0.512, 0.512).touched(16, 0.512).all()


def test_a_start_is_a_part_of_a_recording(recording, tmp_path):
    whole, later = Start.read(str(recording), CODEC), Start.read(f"{recording}@1.5", CODEC)
    assert whole.picture.shape == (CODEC.bands, CODEC.frames, 3)
    assert not np.array_equal(whole.picture, later.picture) and whole.identity != later.identity
    assert later.named == f"{recording.resolve()}@1.5"
    moved = tmp_path / "moved.wav"
    moved.write_bytes(recording.read_bytes())
    assert Start.read(f"{moved}@1.5", CODEC).identity == later.identity
    # The end of the file, filled up with silence.
    end = Start.read(f"{recording}@1.8", CODEC)
    assert end.waveform[:, : int(0.19 * 16000)].any() and not end.waveform[:, int(0.21 * 16000) :].any()
    odd = tmp_path / "tone@2.wav"
    odd.write_bytes(recording.read_bytes())
    assert split_offset(str(odd)) == (odd, 0.0) and split_offset(f"{odd}@1e-1") == (odd, 0.1)


def test_a_start_may_be_a_picture(recording, tmp_path):
    from_sound = Start.read(str(recording), CODEC)
    path = tmp_path / "clip.png"
    Image.fromarray(from_sound.picture).save(path)
    start = Start.read(str(path), CODEC)
    assert np.array_equal(start.picture, from_sound.picture) and start.waveform is None
    decoded = np.ones((1, CODEC.samples_per_clip), np.float32)
    assert keep_sound(decoded, start, Span(0.1, 0.2), CODEC) is decoded


def test_stereo_is_kept_apart(recording):
    codec = SpectrogramCodec.from_json({**CODEC.to_json(), "channels": 2})
    start = Start.read(str(recording), codec)
    assert start.waveform.shape[0] == 2
    assert np.array_equal(codec.from_rgb(start.picture), codec.encode(start.waveform, codec.rate_hz))


def test_what_cannot_be_started_from_is_a_sentence(recording, tmp_path):
    silent = tmp_path / "silent.wav"
    write_wav(silent, np.zeros((1, 16000), np.float32), 16000)
    Image.new("RGB", (10, 10)).save(tmp_path / "small.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "text.wav").write_text("<html>not found</html>")
    for asked, kind, named, offer in (
        (tmp_path / "missing.wav", NotFound, "missing.wav", ""),
        (f"{recording}@99", RecordingError, "2.000 s", "99.000 s"),
        (f"{recording}@1.95", BadValue, "1.95 s", "0.512 s"),
        (f"{recording}@-1", BadValue, "@-1", ""),
        (silent, NothingLeft, "silent.wav is silent from 0 s", "@SECONDS"),
        (tmp_path / "small.png", BadValue, "10 x 10", "64 x 32"),
        (tmp_path / "broken.png", Damaged, "broken.png", ""),
        (tmp_path / "text.wav", RecordingError, "text.wav", ""),
        (tmp_path, NotFound, str(tmp_path), ""),
    ):
        with refuses(named, offer, kind=kind):
            Start.read(str(asked), CODEC)
    picture = tmp_path / "clip.png"
    Image.fromarray(Start.read(str(recording), CODEC).picture).save(picture)
    with refuses("clip.png@1", kind=BadValue):
        Start.read(f"{picture}@1", CODEC)


def test_numbers_outside_their_range_are_refused():
    assert [first_step(10, s) for s in (0, 0.1, 0.29, 0.3, 1)] == [10, 9, 8, 7, 0]
    assert first_step(100, 0.29) == 71  # 100 * 0.29 is 28.999999999999996
    for strength in (-0.1, 1.01, float("nan")):
        with refuses(f"strength={strength}", kind=BadValue):
            first_step(10, strength)
    with refuses("strength=0.05 with steps=10", "strength=0.1", kind=BadValue):
        first_step(10, 0.05)
    for start_s, end_s, named in (
        (0.3, 0.3, "mask_start_s=0.3 mask_end_s=0.3"), (0.4, 0.1, "mask_start_s=0.4 mask_end_s=0.1"),
        (-1.0, 0.2, "mask_start_s=-1"), (0.1, 9.0, "mask_end_s=9"), (0.6, None, "mask_end_s=0.512"),
        (float("nan"), 0.2, "mask_start_s=nan"),
    ):  # fmt: skip
        with refuses(named, "0.512" if end_s == 9.0 else "", kind=BadValue):
            Span.of(start_s, end_s, 0.512)
