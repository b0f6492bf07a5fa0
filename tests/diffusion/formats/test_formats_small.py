"""LoRA, tokens and aesthetic embeddings: out in every naming, read by others, and back."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion import adapters
from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.diffusion.generation import sampling
from birdsd.diffusion.generation.aesthetics import Aesthetic
from birdsd.diffusion.generation.generate import Request
from birdsd.diffusion.generation.generator import Generator
from birdsd.errors import Mismatch, NotSet, Unsupported
from birdsd.files import read_json
from tests.support.errors import refused_as, refuses
from tests.support.formats_makers import TOKENS, WORDS, drawn, latents, load
from tests.support.formats_makers import aesthetic_folder as aesthetic_folder
from tests.support.formats_makers import grand_folder as grand_folder
from tests.support.formats_makers import lora_folder as lora_folder
from tests.support.formats_makers import tokens_folder as tokens_folder
from tests.support.tiny import CODEC

LORA_FORMATS = ("a1111", "comfyui", "kohya", "diffusers-lora")


def send(folder, name, out, **options):
    return write_format(Exported.open(folder, folder.parent.name), name, out, **options)


@pytest.fixture(scope="module")
def with_update(grand_folder, lora_folder):
    """Latents of the model with the LoRA as it was trained, and without."""
    plain = load(grand_folder)
    without = latents(plain)
    adapters.apply(plain, [adapters.Adapter.open(lora_folder)])
    made = latents(plain)
    assert (made - without).abs().max() > 0.1
    return made


# -- LoRA -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LORA_FORMATS)
def test_diffusers_loads_the_lora_and_makes_the_same_latents(
    grand_folder, lora_folder, with_update, tmp_path, name
):
    file = send(lora_folder, name, tmp_path).files[0]
    pipeline = load(grand_folder)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    assert torch.allclose(latents(pipeline), with_update, atol=1e-5)


def test_peft_loads_its_own_folders(grand_folder, lora_folder, with_update, tmp_path):
    from peft import PeftModel

    files = send(lora_folder, "peft", tmp_path).files
    root = files[0].parents[1]
    pipeline = load(grand_folder)
    pipeline.unet = PeftModel.from_pretrained(pipeline.unet, str(root / "unet")).merge_and_unload()
    pipeline.text_encoder = PeftModel.from_pretrained(
        pipeline.text_encoder, str(root / "text_encoder")
    ).merge_and_unload()
    assert torch.allclose(latents(pipeline), with_update, atol=1e-5)


def test_kohyas_names_and_alphas_mean_what_the_web_ui_takes_them_for(
    grand_folder, lora_folder, with_update, tmp_path
):
    """The web UI's rule in a few lines: find the layer by its name with underscores, add
    alpha / rank * up @ down to its weight."""
    update = load_file(send(lora_folder, "a1111", tmp_path).files[0])
    pipeline = load(grand_folder)
    layers = {}
    for prefix, network in (("lora_unet_", pipeline.unet), ("lora_te_text_model_", pipeline.text_encoder)):
        for name, module in network.named_modules():
            layers[prefix + name.removeprefix("text_model.").replace(".", "_")] = module
    names = sorted({key.split(".")[0] for key in update})
    assert len(update) == 3 * len(names) and any(name.startswith("lora_te_") for name in names)
    with torch.no_grad():
        for name in names:
            down, up = update[f"{name}.lora_down.weight"], update[f"{name}.lora_up.weight"]
            change = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
            layers[name].weight += change * float(update[f"{name}.alpha"]) / down.shape[0]
    assert torch.allclose(latents(pipeline), with_update, atol=1e-5)


def test_a_merged_folder_needs_nothing_else(lora_folder, with_update, tmp_path):
    folder = send(lora_folder, "diffusers", tmp_path).files[0].parent
    assert torch.allclose(latents(load(folder)), with_update, atol=1e-5)
    assert not [
        name for name in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors") if "lora" in name
    ]
    model = Generator(folder)
    assert model.words == {"Eurasian Wren": "sks bird", "Black Phoebe": "sks phoebe"}
    assert model.training["kind"] == "pipeline" and model.codec == CODEC
    request = Request(("a Black Phoebe singing",), seed=3, steps=2)
    both = [one.latents(request, request.prompts, [0]) for one in (model, Generator(lora_folder))]
    assert torch.allclose(*both, atol=1e-5)


def theirs_kohya(file, tmp_path):
    return file


def theirs_old_diffusers(file, tmp_path):
    """As diffusers wrote LoRA of attention processors in 2023; alpha is not told, so it is the rank."""
    from birdsd.diffusion.formats.tensors import read_content

    renamed = {}
    for name, tensor in read_content(file).tensors.items():
        layer, _, half = name.partition(".lora_")
        half = {"A.weight": "down.weight", "B.weight": "up.weight"}[half]
        if layer.startswith("text_encoder."):
            old = re.sub(r"\.(q|k|v|out)_proj$", r".to_\1_lora", layer)
            layer = old if old != layer else f"{layer}.lora_linear_layer"
        elif ".attn" in layer:
            layer = re.sub(r"(attn\d)\.(to_\w+)(\.0)?$", r"\1.processor.\2_lora", layer)
        else:
            layer += ".lora"
        renamed[f"{layer}.{half}"] = tensor
    made = tmp_path / "old.safetensors"
    save_file(renamed, made)
    return made


def theirs_original_names(file, tmp_path):
    """kohya's form with the original code's names of the UNet's layers, as some trainers write it."""
    from birdsd.diffusion.formats import ldm
    from birdsd.diffusion.formats.tensors import read_content

    tensors = read_content(file).tensors
    unet = {key.split(".")[0] for key in tensors if key.startswith("lora_unet_")}
    known = {name.replace(".", "_"): name for name in _unet_layers(file)}
    table = ldm.module_names("unet", [known[name.removeprefix("lora_unet_")] for name in unet])
    renamed = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition(".")
        if layer in unet:
            layer = "lora_unet_" + table[known[layer.removeprefix("lora_unet_")]].replace(".", "_")
        renamed[f"{layer}.{rest}"] = tensor
    made = tmp_path / "original.safetensors"
    save_file(renamed, made)
    return made


def _unet_layers(file):
    from birdsd.diffusion.networks import models

    base = read_json(file.with_suffix(".training.json"))["base"]["source"]
    return [name for name, _ in models.load_unet(base).named_modules()]


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("a1111", theirs_kohya),
        ("a1111", theirs_original_names),
        ("diffusers-lora", theirs_kohya),
        ("diffusers-lora", theirs_old_diffusers),
        ("peft", None),
    ],
)
def test_a_lora_comes_in_from_every_naming(grand_folder, lora_folder, with_update, tmp_path, name, rename):
    file = send(lora_folder, name, tmp_path).files[0]
    path = rename(file, tmp_path) if rename else file.parents[1]
    made = import_file(Asked(path, base=str(grand_folder)), tmp_path / "made")
    assert made.kind == "lora"
    pipeline = load(grand_folder)
    adapters.apply(pipeline, [adapters.Adapter.open(made.folder)])
    assert torch.allclose(latents(pipeline), with_update, atol=1e-5)
    assert Generator(made.folder).codec == CODEC


def test_the_companions_bring_words_species_and_base_back(grand_folder, lora_folder, tmp_path):
    file = send(lora_folder, "kohya", tmp_path).files[0]
    made = import_file(Asked(file), tmp_path / "made")  # the base is where the companion says
    model = Generator(made.folder)
    assert model.words["Black Phoebe"] == "sks phoebe" and "American Robin" in model.species
    assert read_json(made.folder / "training.json")["alpha"] == 6
    told = read_json(file.with_suffix(".training.json"))
    told["base"]["identity"] = "0123"
    file.with_suffix(".training.json").write_text(json.dumps(told))
    with refuses("", "0123", kind=Mismatch):
        import_file(Asked(file), tmp_path / "other")


def test_half_precision_of_a_lora(grand_folder, lora_folder, with_update, tmp_path):
    file = send(lora_folder, "kohya", tmp_path, dtype="fp16").files[0]
    assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}
    made = import_file(Asked(file, base=str(grand_folder)), tmp_path / "made")
    stored = load_file(made.folder / adapters.LORA_FILE)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    pipeline = load(grand_folder)
    adapters.apply(pipeline, [adapters.Adapter.open(made.folder)])
    assert torch.allclose(latents(pipeline), with_update, atol=0.05)


# -- tokens -----------------------------------------------------------------------------------------------


def states(pipeline, text):
    return sampling.encode_texts(pipeline.text_encoder, pipeline.tokenizer, [text])


@pytest.fixture(scope="module")
def taught(tokens_folder):
    """What the text encoder makes of the tokens as they were trained."""
    model = Generator(tokens_folder)
    text = model.wording("a Black Phoebe and a Dark-eyed Junco")
    assert "<black-phoebe>_1" in text
    return text, states(model.pipeline, text)


@pytest.mark.parametrize("name", ["embedding", "a1111"])
def test_diffusers_loads_the_tokens(grand_folder, tokens_folder, taught, tmp_path, name):
    written = send(tokens_folder, name, tmp_path)
    pipeline = load(grand_folder)
    for token in TOKENS:
        suffix = ".pt" if name == "a1111" else ".safetensors"
        file = next(p for p in written.files if p.name == token.strip("<>") + suffix)
        pipeline.load_textual_inversion(str(file.parent), weight_name=file.name, token=token)
    assert torch.equal(states(pipeline, taught[0]), taught[1])


def test_the_web_uis_form_is_its_own(tokens_folder, tmp_path):
    """What AUTOMATIC1111's loader asks of a file: one entry in string_to_param; the stem is the word."""
    files = send(tokens_folder, "a1111", tmp_path).files
    data = torch.load(next(p for p in files if p.name == "black-phoebe.pt"), weights_only=True)
    assert set(data) == {
        "string_to_token", "string_to_param", "name", "step", "sd_checkpoint", "sd_checkpoint_name",
    }  # fmt: skip
    assert data["string_to_token"] == {"*": 265} and data["name"] == "<black-phoebe>"
    assert torch.equal(data["string_to_param"]["*"], drawn(11, 2, 24))


@pytest.mark.parametrize("name", ["kohya-embedding", "comfyui"])
def test_kohyas_form_has_one_name(tokens_folder, tmp_path, name):
    files = send(tokens_folder, name, tmp_path).files
    stored = load_file(next(p for p in files if p.name == "dark-eyed-junco.safetensors"))
    assert list(stored) == ["emb_params"] and torch.equal(stored["emb_params"], drawn(12, 1, 24))


def test_a_folder_with_the_tokens_in_it_needs_nothing_else(tokens_folder, taught, tmp_path):
    folder = send(tokens_folder, "diffusers", tmp_path).files[0].parent
    assert torch.equal(states(load(folder), taught[0]), taught[1])
    prompt = "a <black-phoebe>"  # diffusers itself expands a token of several vectors
    theirs = load(folder).maybe_convert_prompt(prompt, load(folder).tokenizer)
    assert theirs == "a <black-phoebe> <black-phoebe>_1"
    told = read_json(folder / "training.json")
    assert told["words"].items() >= WORDS.items() and told["tokens"] == TOKENS


@pytest.mark.parametrize("name", ["embedding", "a1111", "kohya-embedding"])
def test_tokens_come_in_from_every_form(grand_folder, tokens_folder, taught, tmp_path, name):
    written = send(tokens_folder, name, tmp_path)
    suffix = ".pt" if name == "a1111" else ".safetensors"
    file = next(p for p in written.files if p.name == "black-phoebe" + suffix)
    made = import_file(Asked(file), tmp_path / "made")
    assert made.kind == "embedding"
    model = Generator(made.folder)
    assert model.words["Black Phoebe"] == "<black-phoebe>"
    text = model.wording("a Black Phoebe")
    assert text == "a <black-phoebe> <black-phoebe>_1"
    assert torch.equal(states(model.pipeline, text), states(Generator(tokens_folder).pipeline, text))


def test_a_lone_file_names_its_token(grand_folder, tokens_folder, tmp_path):
    written = send(tokens_folder, "a1111", tmp_path)
    lone = tmp_path / "lone" / "my-bird.pt"
    lone.parent.mkdir()
    lone.write_bytes(written.files[0].read_bytes())
    made = import_file(Asked(lone, base=str(grand_folder)), tmp_path / "made")  # the base has a codec
    assert read_json(made.folder / "training.json")["tokens"] == {"my-bird": 2}
    other = import_file(Asked(lone, base=str(grand_folder), token="<bird>"), tmp_path / "other")
    assert list(load_file(other.folder / "embeddings" / "bird.safetensors")) == ["<bird>"]


# -- aesthetic embeddings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_an_aesthetic_embedding_goes_out_bare_and_comes_back(grand_folder, aesthetic_folder, tmp_path, dtype):
    written = send(aesthetic_folder, "a1111", tmp_path, dtype=dtype)
    file = next(p for p in written.files if p.name == "American_Robin.pt")
    bare = torch.load(file, weights_only=True)
    assert isinstance(bare, torch.Tensor) and tuple(bare.shape) == (1, 20)
    assert bare.dtype == (torch.float16 if dtype == "fp16" else torch.float32)
    made = import_file(Asked(file), tmp_path / "made")
    back, sent = Aesthetic.load(made.folder), Aesthetic.load(aesthetic_folder)
    assert made.kind == "aesthetic" and list(back.embeddings) == ["American Robin"]
    assert torch.equal(back.embeddings["American Robin"], bare.float())
    assert torch.equal(back.text_projection, sent.text_projection)
    assert Generator(made.folder).aesthetics


def test_a_lone_aesthetic_embedding_asks_for_its_clip(grand_folder, aesthetic_folder, tmp_path):
    torch.save(drawn(1, 1, 20).half(), tmp_path / "style.pt")
    asked = Asked(tmp_path / "style.pt", base=str(grand_folder))
    with refuses("CLIP", "--clip", kind=NotSet):
        import_file(asked, tmp_path / "made")
    with refuses(("'comfyui'", "(aesthetic)"), "a1111", kind=Unsupported):
        send(aesthetic_folder, "comfyui", tmp_path)


# -- the command line -------------------------------------------------------------------------------------


def birdsd(capfd, *arguments):
    from birdsd.cli.main import main

    capfd.readouterr()
    status = main([str(argument) for argument in arguments])
    return status, *capfd.readouterr()


def test_export_and_import_on_the_command_line(grand_folder, lora_folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    status, out, _ = birdsd(
        capfd, "export", lora_folder, "--format", "kohya", "peft", "--out", "out", "--json"
    )
    facts = json.loads(out)
    assert (status, facts["kind"], list(facts["formats"])) == (0, "lora", ["kohya", "peft"])
    told = facts["formats"]["kohya"]
    assert told["bytes"] == sum((tmp_path / name).stat().st_size for name in told["files"])
    status, out, _ = birdsd(capfd, "import", told["file"], "--base", grand_folder, "--json")
    made = json.loads(out)
    assert (status, made["kind"], made["folder"]) == (0, "lora", f"imported/{lora_folder.parent.name}")
    assert Generator(tmp_path / made["folder"]).adapters
    assert birdsd(capfd, "import", told["file"], "--base", grand_folder)[1].startswith(
        f"{made['folder']} already contains"
    )
    status, out, error = birdsd(capfd, "export", lora_folder, "--format", "embedding")
    assert (status, out) == (2, "") and "embedding" in error and "kohya" in error
    status, out, error = birdsd(capfd, "export", told["file"], "--format", "kohya", "--json")
    assert status == 2 and refused_as(out, "bad-value", told["file"], "birdsd import")
    status, out, error = birdsd(capfd, "import", "nowhere.safetensors")
    assert (status, out) == (2, "") and "nowhere.safetensors" in error


def test_a_run_is_named_after_itself_and_gets_its_exports(lora_folder, tmp_path, monkeypatch):
    from birdsd.cli.models import export_run
    from birdsd.files import write_json

    shutil.copytree(lora_folder, tmp_path / "runs" / "tiny-lora-0123456789ab" / "export")
    write_json(tmp_path / "runs" / "tiny-lora-0123456789ab" / "signature.json", {"signature": "0123456789ab"})
    monkeypatch.chdir(tmp_path)
    facts, text = export_run("0123", ["kohya"])
    file = tmp_path / "runs/tiny-lora-0123456789ab/exports/kohya/tiny-lora-0123456789ab.safetensors"
    assert file.is_file() and facts["formats"]["kohya"]["file"] == str(file.relative_to(tmp_path))
    assert file.name in text
