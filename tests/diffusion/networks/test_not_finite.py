"""Numbers that are not finite are named where they come in, and never become a picture or a sound."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion import adapters
from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.generate import generate
from birdsd.diffusion.generation.generator import Generator
from birdsd.diffusion.generation.request import Request
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.finite import NotFinite, check_finite, is_finite
from birdsd.errors import Damaged, UserError
from birdsd.training.previews import write_preview
from tests.support.errors import refuses
from tests.support.formats_makers import HEARD, drawn
from tests.support.formats_makers import grand_folder as grand_folder
from tests.support.formats_makers import lora_folder as lora_folder
from tests.support.tiny import CODEC, train_config

BAD = [float("nan"), float("inf"), float("-inf")]


def spoil(file, name: str, value: float = float("nan")) -> None:
    """Put one such number into a tensor of a file."""
    tensors = load_file(file)
    tensors[name] = tensors[name].clone()
    tensors[name].reshape(-1)[-1] = value
    save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("bad", BAD)
def test_one_such_number_is_found_in_every_type(dtype, bad):
    tensor = drawn(1, 50, 7).to(dtype)
    assert is_finite(tensor)
    tensor[49, 6] = bad
    assert not is_finite(tensor)
    with refuses(("FILE", "second", "1 numbers of 350"), kind=NotFinite):
        check_finite({"first": drawn(1, 3), "second": tensor}, "FILE")


def test_large_numbers_are_finite():
    assert is_finite(torch.full((1000,), 3e38))  # their sum is not
    assert is_finite(torch.full((1000,), 60000.0, dtype=torch.float16))
    assert is_finite(torch.zeros(0)) and is_finite(torch.tensor([2**62]))
    assert not is_finite(torch.tensor([float("inf"), float("-inf")]))


# -- the entrances ----------------------------------------------------------------------------------------


def refused(tmp_path, path, **options) -> str:
    with pytest.raises(UserError) as caught:
        import_file(Asked(path, **options), tmp_path / "made")
    assert not (tmp_path / "made").exists() and path.name in str(caught.value)
    assert type(caught.value) in (NotFinite, Damaged)
    return str(caught.value)


@pytest.mark.parametrize("form", ["a1111", "ckpt"])
@pytest.mark.parametrize(
    "name",
    [
        "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
        "first_stage_model.decoder.mid.attn_1.q.weight",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_a_checkpoint_is_refused_at_import(grand_folder, tmp_path, form, name):
    file = write_format(Exported.open(grand_folder, "grand"), form, tmp_path / "out").files[0]
    if form == "a1111":
        spoil(file, name)
    else:
        whole = torch.load(file, weights_only=True)
        whole["state_dict"][name].reshape(-1)[0] = float("inf")
        torch.save(whole, file)
    said = refused(tmp_path, file, base=str(grand_folder), codec=str(grand_folder))
    assert f"{name} holds 1 numbers" in said and "black" in said


def test_what_a_checkpoint_holds_besides_its_networks_may_be_anything(grand_folder, tmp_path):
    file = write_format(Exported.open(grand_folder, "grand"), "a1111", tmp_path / "out").files[0]
    besides = {"log_one_minus_alphas_cumprod": torch.tensor([float("-inf")])}
    save_file({**load_file(file), **besides}, file)
    assert import_file(Asked(file, base=str(grand_folder)), tmp_path / "made").made


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
    ],
)
def test_a_folder_is_refused_at_import_and_wherever_it_is_loaded(grand_folder, tmp_path, part, file):
    folder = tmp_path / "theirs"
    shutil.copytree(grand_folder, folder)
    name = sorted(load_file(folder / part / file))[0]
    spoil(folder / part / file, name)
    assert f"{part}.{name} holds 1 numbers" in refused(tmp_path, folder)
    with refuses(f"{part}.", kind=NotFinite):
        Generator(folder)
    load = {"unet": models.load_unet, "vae": models.load_vae, "text_encoder": models.load_text_encoder}[part]
    with refuses(f"{part}.", kind=NotFinite):  # what a training starts from
        load(str(folder))


@pytest.mark.parametrize("half", ["lora_up.weight", "lora_down.weight", "alpha"])
@pytest.mark.parametrize("bad", BAD)
def test_a_lora_is_refused_at_import(grand_folder, lora_folder, tmp_path, half, bad):
    file = write_format(Exported.open(lora_folder, "lora"), "kohya", tmp_path / "out").files[0]
    name = next(name for name in load_file(file) if name.endswith(half))
    spoil(file, name, bad)
    assert f"{name} holds 1 numbers" in refused(tmp_path, file, base=str(grand_folder))


def test_an_addition_that_went_bad_is_refused_where_it_is_added(grand_folder, lora_folder, tmp_path):
    folder = tmp_path / "lora"
    shutil.copytree(lora_folder, folder)
    name = sorted(load_file(folder / adapters.LORA_FILE))[3]
    spoil(folder / adapters.LORA_FILE, name)
    with refuses(name, kind=NotFinite):
        Generator(grand_folder, adapters=[adapters.Adapter.open(folder)])


def test_an_embedding_is_refused_in_every_form(grand_folder, tmp_path):
    vectors = drawn(1, 2, 24)
    vectors[1, 3] = float("nan")
    save_file({"<wren>": vectors}, tmp_path / "diffusers.safetensors")
    save_file({"emb_params": vectors}, tmp_path / "kohya.safetensors")
    torch.save({"string_to_param": {"*": vectors}}, tmp_path / "a1111.pt")
    for name, told in (("diffusers.safetensors", "<wren>"), ("kohya.safetensors", "emb_params")):
        assert f"{told} holds 1" in refused(tmp_path, tmp_path / name, base=str(grand_folder))
    assert "string_to_param.* holds 1" in refused(tmp_path, tmp_path / "a1111.pt", base=str(grand_folder))


# -- what is made -----------------------------------------------------------------------------------------


@pytest.fixture
def loud(pipeline_folder, tmp_path):
    """A model with a token whose vector is finite, and far beyond what the text encoder computes with."""
    from birdsd.diffusion.networks.token_vectors import write_embeddings

    folder = adapters.write_adapter(
        tmp_path / "loud",
        "embedding",
        lambda partial: write_embeddings(partial, {"<loud>": torch.full((1, 32), 3e38)}),
        codec=CODEC.to_json(),
        heard=HEARD,
        about={"tokens": {"<loud>": 1}},
        base=str(pipeline_folder),
    )
    return Generator(folder)


def test_a_clip_that_is_not_finite_is_not_written_and_the_others_are(loud, tmp_path):
    request = Request(("an American Robin", "a <loud> wren"), count=2, steps=3, seed=7, batch_size=4)
    with pytest.raises(NotFinite) as caught:
        generate(loud, request, tmp_path / "out", progress=False)
    said = str(caught.value)
    assert "(2 of 4 clips " in said
    assert "clip 0 of 'a <loud> wren' (seed 7)" in said and "after step 1 of 3" in said
    assert "diverged" in said and "silent" in said
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(made) == 8 and all(name.startswith("an_American_Robin") for name in made)
    # The others are what they would be in such a batch: alone they have the same names, and are kept.
    with pytest.raises(NotFinite):
        generate(loud, request, tmp_path / "out", keep=True, progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == made
    generate(loud, request, tmp_path / "again", only=[0, 1], progress=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == made


def test_the_command_ends_with_a_status(loud, tmp_path, capfd):
    from birdsd.cli.main import main

    out = tmp_path / "out"
    status = main(
        ["run", "generate", f"run={loud.folder}", 'prompt=["a <loud> wren"]', "steps=1", f"out={out}",
         f"runs={tmp_path / 'runs'}"]
    )  # fmt: skip
    assert status == 2 and "seed" in capfd.readouterr().err
    assert not list(out.glob("*"))


def test_the_likely_reason_is_named(pipeline_folder, tmp_path):
    request = Request(("a wren",), steps=2, guidance=1e38)
    with refuses("clip 0", "guidance=1e+38", "guidance=3", kind=NotFinite):
        generate(Generator(pipeline_folder), request, tmp_path, progress=False)
    half = Generator(pipeline_folder, dtype=torch.float16)
    with torch.no_grad():
        half.pipeline.unet.conv_out.weight.fill_(60000)
    with refuses("clip 0", "float16", "machine.precision=fp32", kind=NotFinite):
        generate(half, Request(("a wren",), steps=2), tmp_path, progress=False)


def test_an_autoencoder_that_overflows_is_told_from_a_unet(pipeline_folder, tmp_path):
    model = Generator(pipeline_folder)
    with torch.no_grad():
        model.pipeline.vae.decoder.conv_in.weight.fill_(3e38)
    with refuses(("clip 0", "picture", "autoencoder"), kind=NotFinite):
        model.images(Request(("a wren",), steps=2), ["a wren"], [0])
    with refuses("1 of 1 pictures", kind=NotFinite):
        sampling.decode_images(model.pipeline.vae, drawn(1, 1, *model.latent_shape()))


def test_a_preview_that_is_no_picture_is_left_out_and_training_goes_on(index, autoencoder_folder, tmp_path):
    from birdsd.diffusion.methods import make_method

    config = train_config("full", autoencoder=autoencoder_folder)
    method = make_method(config, index)
    parts = method.build(torch.device("cpu"), torch.float32)
    with torch.no_grad():
        parts.learner.unet.conv_out.bias.fill_(float("nan"))
    paths, event = write_preview(method, lambda: parts, config, index, tmp_path / "preview")
    assert paths == [] and event["event"] == "preview skipped" and "not finite" in event["reason"]
    assert not list(tmp_path.rglob("*.wav"))
