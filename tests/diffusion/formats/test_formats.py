"""Whole models: in one file, in a folder, and back, read by loaders that are not ours."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from birdsd.diffusion.formats import FORMATS, ldm, ldm_shapes, settings
from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.diffusion.generation.generate import Request
from birdsd.diffusion.generation.generator import Generator
from birdsd.errors import AlreadyThere, Mismatch, NotSet, UnknownName, Unsupported
from birdsd.files import read_json
from birdsd.sound.codec.codec import SpectrogramCodec
from tests.support.errors import refuses
from tests.support.formats_makers import PROMPTS, latents, load, load_single, same_pictures
from tests.support.formats_makers import grand_folder as grand_folder
from tests.support.remarks import remarked
from tests.support.tiny import CODEC

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = ("pipeline_folder", "grand_folder")


# -- Stable Diffusion 1.5 itself, without its weights -----------------------------------------------------


@pytest.fixture(scope="module")
def sd15():
    """The real networks of configs/model/sd15.yaml on torch's meta device."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    told = yaml.safe_load((ROOT / "configs/model/sd15.yaml").read_text())
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    with torch.device("meta"):
        return {
            "unet": UNet2DConditionModel(**told["unet"], cross_attention_dim=768),
            "vae": AutoencoderKL(**told["vae"], **blocks),
            "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=49408, **told["text"])),
        }


def test_a_checkpoint_of_sd15_has_the_published_keys_and_shapes(sd15):
    """v1-5-pruned-emaonly.safetensors: 1131 tensors, 686 + 248 + 197. Key by key they are compared with a
    list made from the original code's structure, whose sums are the published numbers of parameters."""
    states = {part: network.state_dict() for part, network in sd15.items()}
    ours = {name: tuple(tensor.shape) for name, tensor in ldm.to_ldm(states).items()}
    expected = ldm_shapes.checkpoint(
        sd15["unet"].config, sd15["vae"].config, sd15["text_encoder"].config.to_dict()
    )
    assert ours == expected and len(expected) == 1131
    counts = {"model.diffusion_model.": (686, 859_520_964), "first_stage_model.": (248, 83_653_863)}
    counts["cond_stage_model.transformer.text_model."] = (
        197,
        123_060_480 + 77,
    )  # positions are no parameters
    for prefix, published in counts.items():
        shapes = [shape for name, shape in expected.items() if name.startswith(prefix)]
        assert (len(shapes), sum(math.prod(shape) for shape in shapes)) == published


PUBLISHED = {  # some of the names that programs look for in the published file
    "model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3),
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias": (320,),
    "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
    "first_stage_model.encoder.down.2.block.0.nin_shortcut.weight": (512, 256, 1, 1),
    "first_stage_model.decoder.mid.attn_1.proj_out.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
    "first_stage_model.decoder.up.0.block.2.norm2.bias": (128,),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": (1, 77),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
    "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
}


def test_names_that_other_programs_look_for_are_there(sd15):
    states = {part: network.state_dict() for part, network in sd15.items()}
    ours = {name: tuple(tensor.shape) for name, tensor in ldm.to_ldm(states).items()}
    assert {name: ours.get(name) for name in PUBLISHED} == PUBLISHED


def test_the_yaml_of_sd15_is_the_published_one(sd15):
    """configs/v1-inference.yaml, in the values that decide the networks and the noise."""
    told = settings.original_settings(sd15["unet"].config, sd15["vae"].config, {})
    params = told["model"]["params"]
    assert params["unet_config"]["params"] == {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "attention_resolutions": [4, 2, 1], "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 8,
        "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 768, "use_checkpoint": False,
        "legacy": False,
    }  # fmt: skip
    assert params["first_stage_config"]["params"]["ddconfig"] == {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    assert (params["linear_start"], params["linear_end"], params["scale_factor"]) == (0.00085, 0.012, 0.18215)
    assert not settings.departs_from_default(told)
    velocity = settings.original_settings(
        sd15["unet"].config, sd15["vae"].config, {"prediction_type": "v_prediction"}
    )
    assert velocity["model"]["params"]["parameterization"] == "v"
    assert settings.departs_from_default(velocity)
    text = sd15["text_encoder"].config.to_dict()
    for program in ("a1111", "comfyui"):
        assert settings.obstacles(sd15["unet"].config, sd15["vae"].config, text, told, program) == []
    own_scale = {**sd15["vae"].config, "scaling_factor": 0.3}
    told = settings.original_settings(sd15["unet"].config, own_scale, {})
    assert settings.departs_from_default(told)  # AUTOMATIC1111 reads it from the yaml, ComfyUI cannot
    assert settings.obstacles(sd15["unet"].config, own_scale, text, told) == []
    (why,) = settings.obstacles(sd15["unet"].config, own_scale, text, told, "comfyui")
    assert why == "scale_factor must be 0.18215, and is 0.3"


# -- small models, with weights ---------------------------------------------------------------------------


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("out")


def send(folder, name, out, **options):
    return write_format(Exported.open(folder, folder.parent.name), name, out, **options)


@pytest.mark.parametrize("name", ["a1111", "comfyui", "ckpt"])
def test_diffusers_reads_a_single_file_and_makes_the_same_latents(folder, out, name):
    file = send(folder, name, out).files[0]
    assert file.suffix == (".ckpt" if name == "ckpt" else ".safetensors")
    same_pictures(load(folder), load_single(file, file.with_suffix(".settings")))


def test_a_single_file_holds_what_the_original_code_would_ask_for(folder, out):
    file = send(folder, "a1111", out).files[0]
    parts = {part: read_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder")}
    stored = {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}
    markers = {name for name in stored if "." not in name}
    expected = ldm_shapes.checkpoint(parts["unet"], parts["vae"], parts["text_encoder"])
    assert {name: shape for name, shape in stored.items() if name not in markers} == expected
    assert markers == ({"v_pred", "ztsnr"} if folder.parent.name.startswith("grand") else set())


@pytest.mark.parametrize("name", ["a1111", "ckpt"])
def test_a_single_file_comes_back_as_the_model_that_it_was(folder, out, tmp_path, name):
    file = send(folder, name, out).files[0]
    made = import_file(Asked(file), tmp_path / "made")
    assert (made.kind, made.made) == ("pipeline", True)
    request = Request(tuple(PROMPTS), seed=4, steps=2, negative_prompt="rain")
    before, after = Generator(folder), Generator(made.folder)
    assert torch.equal(before.latents(request, PROMPTS, [0, 0]), after.latents(request, PROMPTS, [0, 0]))
    assert after.codec == CODEC and after.species == before.species and after.words == before.words
    assert (made.folder / "recordings.csv").read_text() == (folder / "recordings.csv").read_text()
    assert import_file(Asked(file), tmp_path / "made").made is False
    with refuses("made", "--out", kind=AlreadyThere):  # the same file, read in another way
        import_file(Asked(file, base=str(folder)), tmp_path / "made")


def test_codec_and_rights_travel_beside_the_file_and_in_its_header(folder, out):
    from safetensors import safe_open

    file = send(folder, "a1111", out).files[0]
    assert SpectrogramCodec.from_json(read_json(file.with_suffix(".codec.json"))) == CODEC
    assert file.with_suffix(".recordings.csv").read_text() == (folder / "recordings.csv").read_text()
    with safe_open(str(file), "pt") as stored:
        assert SpectrogramCodec.from_json(json.loads(stored.metadata()["codec"])) == CODEC


def test_half_precision_halves_the_file_and_is_read_as_float32_on_a_cpu(grand_folder, tmp_path):
    whole = send(grand_folder, "a1111", tmp_path / "whole").files[0]
    half = send(grand_folder, "a1111", tmp_path / "half", dtype="fp16").files[0]
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    weights = load_file(half)
    assert {t.dtype for t in weights.values() if t.numel()} == {torch.float16, torch.int64}
    model = Generator(import_file(Asked(half), tmp_path / "made").folder)
    assert model.pipeline.unet.dtype == model.pipeline.vae.dtype == torch.float32
    assert torch.allclose(latents(model.pipeline), latents(load(grand_folder)), atol=0.05)
    folder = send(grand_folder, "diffusers", tmp_path / "folder", dtype="fp16").files[0].parent
    stored = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16}
    assert Generator(folder).identity != Generator(grand_folder).identity  # other weights, other clips


def test_weights_that_half_precision_cannot_hold_are_refused(grand_folder, tmp_path):
    folder = send(grand_folder, "diffusers", tmp_path).files[0].parent
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["conv_in.bias"][0] = 70000.0
    save_file(weights, file, {"format": "pt"})
    with refuses(("input_blocks.0.0.bias", "fp16"), kind=Mismatch):
        send(folder, "a1111", tmp_path / "half", dtype="fp16")
    assert not list((tmp_path / "half").rglob("*.safetensors"))


def test_a_folder_is_copied_whole(folder, tmp_path):
    written = send(folder, "diffusers", tmp_path)
    copy = written.files[0].parent
    same_pictures(load(folder), load(copy))
    assert Generator(copy).identity == Generator(folder).identity
    assert (copy / "recordings.csv").is_file() and (copy / "codec.json").is_file()


def test_a_model_that_predicts_v_gets_a_yaml_that_diffusers_understands(grand_folder, tmp_path):
    from diffusers.loaders import single_file_utils as theirs

    file = send(grand_folder, "a1111", tmp_path).files[0]
    told = yaml.safe_load(file.with_suffix(".yaml").read_text())
    assert told["model"]["params"]["parameterization"] == "v"
    weights = load_file(file)
    for part, read in (
        ("unet", theirs.create_unet_diffusers_config_from_ldm),
        ("vae", theirs.create_vae_diffusers_config_from_ldm),
    ):
        ours, understood = read_json(grand_folder / part / "config.json"), read(told, weights)
        understood.pop("sample_size")  # theirs is that of photographs, whatever the yaml says
        assert {key: ours[key] for key in understood} == understood


def test_the_notes_say_what_a_program_cannot_know_from_the_file():
    from birdsd.diffusion.formats import single_file

    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (comfy,) = single_file.about_noise("comfyui", noise)
    assert "ModelSamplingDiscrete" in comfy and "v_prediction" in comfy and "zsnr=true" in comfy
    (web,) = single_file.about_noise("a1111", noise)
    assert "Zero Terminal SNR" in web
    assert single_file.about_noise("comfyui", {"prediction_type": "epsilon"}) == []


def test_programs_that_cannot_run_the_model_are_named(pipeline_folder, tmp_path):
    notes = send(pipeline_folder, "a1111", tmp_path).notes
    facts = remarked(notes, "cannot-run").facts
    assert len(notes) == 1 and facts["program"] == "a1111" and "text encoder" in facts["obstacles"][0]
    assert "from_single_file" in notes[0]


def test_the_yaml_beside_a_file_decides_what_it_predicts(grand_folder, tmp_path):
    """A file of another program: no settings, no markers, the architecture from --base."""
    file = send(grand_folder, "a1111", tmp_path).files[0]
    weights = {name: tensor for name, tensor in load_file(file).items() if "." in name}
    lone = tmp_path / "lone" / "theirs.safetensors"
    lone.parent.mkdir()
    save_file(weights, lone)
    base = send(grand_folder, "diffusers", tmp_path).files[0].parent
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**read_json(scheduler), "prediction_type": "epsilon"}))
    with refuses("theirs.safetensors", "--base", kind=NotSet):
        import_file(Asked(lone, codec=str(base)), tmp_path / "a")
    with refuses("theirs.safetensors", "--codec", kind=NotSet):
        import_file(Asked(lone, base=str(base)), tmp_path / "a")
    asked = Asked(lone, base=str(base), codec=str(base / "codec.json"))
    assert (
        Generator(import_file(asked, tmp_path / "a").folder).pipeline.scheduler.config["prediction_type"]
        == "epsilon"
    )
    marked = tmp_path / "lone" / "marked.safetensors"
    save_file({**weights, "v_pred": torch.empty(0), "ztsnr": torch.empty(0)}, marked)
    asked_too = Asked(marked, base=str(base), codec=str(base))
    noise = Generator(import_file(asked_too, tmp_path / "marked").folder).pipeline.scheduler.config
    assert noise["prediction_type"] == "v_prediction" and noise["rescale_betas_zero_snr"] is True
    lone.with_suffix(".yaml").write_bytes(file.with_suffix(".yaml").read_bytes())
    model = Generator(import_file(asked, tmp_path / "b").folder)
    same_pictures(load(grand_folder), model.pipeline)


def test_files_as_other_programs_write_them_are_read(grand_folder, tmp_path):
    """The text encoder without `text_model.`, attention as matrices, averages and schedules beside."""
    file = send(grand_folder, "a1111", tmp_path).files[0]
    theirs = {}
    for name, tensor in load_file(file).items():
        name = name.replace("transformer.text_model.", "transformer.")
        theirs[name] = tensor[:, :, 0, 0] if ".attn_1.q.weight" in name else tensor
    theirs |= {"model_ema.decay": torch.ones(()), "alphas_cumprod": torch.ones(9), "betas": torch.ones(9)}
    other = tmp_path / "other.ckpt"
    torch.save({"state_dict": theirs, "global_step": 840, "epoch": 1}, other)
    asked = Asked(other, base=str(grand_folder), codec=str(grand_folder))
    same_pictures(load(grand_folder), Generator(import_file(asked, tmp_path / "made").folder).pipeline)


def test_a_diffusers_folder_comes_in_with_a_codec(grand_folder, tmp_path):
    """As others save it: half precision, without safety checker or feature extractor, nothing of ours."""
    pipeline = load(grand_folder)
    pipeline.to(torch.float16).save_pretrained(tmp_path / "theirs")
    with refuses("theirs", "codec.json", kind=NotSet):
        import_file(Asked(tmp_path / "theirs"), tmp_path / "made")
    asked = Asked(tmp_path / "theirs", codec=str(grand_folder / "codec.json"))
    model = Generator(import_file(asked, tmp_path / "made").folder)
    assert model.pipeline.unet.dtype == torch.float32 and model.species == ()
    assert torch.allclose(latents(model.pipeline), latents(load(grand_folder)), atol=0.05)


def test_parts_that_the_original_code_does_not_know_are_refused(grand_folder, tmp_path):
    from diffusers import UNet2DConditionModel

    folder = send(grand_folder, "diffusers", tmp_path).files[0].parent
    config = {**read_json(folder / "unet" / "config.json"), "class_embed_type": "timestep"}
    UNet2DConditionModel.from_config(config).save_pretrained(folder / "unet")
    with refuses("class_embedding", kind=Unsupported):
        send(folder, "a1111", tmp_path / "out")


def test_every_format_says_which_kinds_it_holds(pipeline_folder, tmp_path):
    assert set(FORMATS) == {
        "diffusers", "a1111", "comfyui", "ckpt", "peft", "kohya", "diffusers-lora", "embedding",
        "kohya-embedding", "onnx",
    }  # fmt: skip
    with refuses("'a111'", "'a1111'", kind=UnknownName):
        send(pipeline_folder, "a111", tmp_path)
    with refuses("'kohya'", "diffusers, a1111", kind=Unsupported):
        send(pipeline_folder, "kohya", tmp_path)
    with refuses("'fp8'", kind=UnknownName):
        send(pipeline_folder, "a1111", tmp_path, dtype="fp8")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_someone_else_is_not_replaced(pipeline_folder, tmp_path):
    mine = tmp_path / "diffusers" / pipeline_folder.parent.name / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with refuses(str(mine.parent), "--out", kind=AlreadyThere):
        send(pipeline_folder, "diffusers", tmp_path)
    file = send(pipeline_folder, "a1111", tmp_path).files[0]
    with refuses(str(mine.parent), "--out", kind=AlreadyThere):
        import_file(Asked(file), mine.parent)
    assert mine.read_text() == "years of work"
