"""What cannot be read or does not fit is refused in a sentence, and leaves nothing behind."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.diffusion.networks.finite import NotFinite
from birdsd.errors import (
    AlreadyThere,
    BadValue,
    Damaged,
    Mismatch,
    NotFound,
    NotSet,
    UnknownName,
    Unsupported,
)
from tests.support.errors import refuses
from tests.support.formats_makers import drawn
from tests.support.formats_makers import grand_folder as grand_folder
from tests.support.formats_makers import lora_folder as lora_folder


def send(folder, name, out):
    return write_format(Exported.open(folder, folder.parent.name), name, out).files[0]


@pytest.fixture
def refused(grand_folder, tmp_path):
    """Import a file on the grand model: an error of this kind, which names the file and these facts."""

    def attempt(path, kind, *facts, **options):
        given = {"base": str(grand_folder), "codec": str(grand_folder), **options}
        with refuses(path.name, kind=kind) as caught:
            import_file(Asked(path, **given), tmp_path / "made")
        assert not (tmp_path / "made").exists()
        assert [fact for fact in facts if fact not in str(caught.value)] == [], caught.value

    return attempt


@pytest.fixture
def checkpoint(grand_folder, tmp_path):
    return send(grand_folder, "a1111", tmp_path / "out")


def test_a_path_that_is_not_there_or_a_folder(refused, tmp_path):
    refused(tmp_path / "nothing.safetensors", NotFound)
    (tmp_path / "folder").mkdir()
    save_file({"a": drawn(1, 2)}, tmp_path / "folder" / "lora.safetensors")
    refused(tmp_path / "folder", BadValue, "lora.safetensors")


def test_a_name_that_says_nothing(refused, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"123")
    with refuses("'.onnx'", kind=UnknownName):
        import_file(Asked(tmp_path / "model.onnx"), tmp_path / "made")


@pytest.mark.parametrize("kept", [0, 6, 200, -100])
def test_a_safetensors_file_that_was_cut_short(refused, checkpoint, tmp_path, kept):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:kept])
    refused(cut, Damaged, f"({len(checkpoint.read_bytes()[:kept]):,} bytes)")


@pytest.mark.parametrize("kept", [0, 6, 2000, -100])
def test_a_ckpt_that_was_cut_short(refused, grand_folder, tmp_path, kept):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(send(grand_folder, "ckpt", tmp_path / "out").read_bytes()[:kept])
    refused(cut, Damaged)


class Foreign:
    def __reduce__(self):
        return os.system, ("touch /tmp/birdsd-was-here",)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_foreign_objects_in_a_pickle_are_refused_and_not_run(refused, tmp_path, suffix):
    path = tmp_path / f"theirs{suffix}"
    torch.save({"state_dict": {"a": drawn(1, 2)}, "callback": Foreign()}, path)
    refused(path, Unsupported, "system", ".safetensors")
    assert not os.path.exists("/tmp/birdsd-was-here")


def test_a_pickled_module_is_refused(refused, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    refused(tmp_path / "module.pt", Unsupported, "torch.nn.modules.linear.Linear")


def test_a_checkpoint_with_missing_keys(refused, checkpoint):
    weights = load_file(checkpoint)
    gone = [name for name in weights if ".output_blocks.8." in name]
    save_file({name: t for name, t in weights.items() if name not in gone}, checkpoint)
    refused(checkpoint, Mismatch, min(gone), f"{len(gone) - 3} more")


def test_a_checkpoint_with_keys_of_another_architecture(refused, checkpoint):
    weights = load_file(checkpoint)
    more = "model.diffusion_model.input_blocks.12.0.in_layers.0.weight"
    save_file({**weights, more: drawn(1, 8)}, checkpoint)
    refused(checkpoint, Mismatch, more)


def test_a_checkpoint_of_other_widths(refused, checkpoint):
    weights = load_file(checkpoint)
    weights["model.diffusion_model.input_blocks.0.0.weight"] = drawn(1, 9, 4, 3, 3)
    save_file(weights, checkpoint)
    refused(checkpoint, Mismatch, "input_blocks.0.0.weight", "[9, 4, 3, 3]", "[8, 4, 3, 3]")


def test_a_checkpoint_on_a_base_of_another_architecture(refused, checkpoint, pipeline_folder):
    refused(checkpoint, Mismatch, "--base", base=str(pipeline_folder))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("conditioner.embedders.0.transformer.x", "SDXL"),
        ("cond_stage_model.model.transformer.x", "Stable Diffusion 2"),
        ("encoder.conv_in.weight", "autoencoder alone"),
        ("control_model.x", "ControlNet"),
    ],
)
def test_checkpoints_of_other_models_are_named(refused, tmp_path, name, what):
    save_file({name: drawn(1, 2), "model.diffusion_model.a": drawn(1, 2)}, tmp_path / "theirs.safetensors")
    refused(tmp_path / "theirs.safetensors", Unsupported, what)


def test_a_lora_for_another_architecture(refused, lora_folder, pipeline_folder, tmp_path):
    for name in ("kohya", "diffusers-lora"):
        file = send(lora_folder, name, tmp_path)
        refused(file, Mismatch, "--base", base=str(pipeline_folder))


def test_a_lora_of_other_widths(refused, lora_folder, tmp_path):
    file = send(lora_folder, "kohya", tmp_path)
    update = load_file(file)
    key = next(name for name in update if name.endswith("attn2_to_k.lora_down.weight"))
    update[key] = drawn(1, update[key].shape[0], 768)
    save_file(update, file)
    refused(file, Mismatch, "attn2.to_k", "768]")


def test_half_a_lora(refused, lora_folder, tmp_path):
    file = send(lora_folder, "kohya", tmp_path)
    update = load_file(file)
    key = next(name for name in update if name.endswith("lora_up.weight"))
    save_file({name: tensor for name, tensor in update.items() if name != key}, file)
    refused(file, Damaged)


@pytest.mark.parametrize("leaf", ["hada_w1_a", "lokr_w1", "dora_scale", "lora_mid.weight"])
def test_updates_of_other_kinds_are_named(refused, tmp_path, leaf):
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{layer}.{leaf}": drawn(1, 2, 2), f"{layer}.lora_down.weight": drawn(1, 2, 2)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    refused(tmp_path / "theirs.safetensors", Unsupported, f"{layer}.{leaf}")


def test_peft_weights_without_their_configuration(refused, lora_folder, tmp_path):
    folder = send(lora_folder, "peft", tmp_path).parent
    (folder / "adapter_config.json").unlink()
    refused(folder / "adapter_model.safetensors", NotFound, "adapter_config.json")


def test_an_embedding_of_the_wrong_width(refused, tmp_path):
    save_file({"<wren>": drawn(1, 1, 768)}, tmp_path / "wren.safetensors")
    refused(tmp_path / "wren.safetensors", Mismatch, "<wren> is 768 wide", "24 wide")


@pytest.mark.parametrize("token", ["<|endoftext|>", "a", "A"])
def test_a_token_that_exists_already(refused, tmp_path, token):
    save_file({token: drawn(1, 1, 24)}, tmp_path / "theirs.safetensors")
    refused(tmp_path / "theirs.safetensors", AlreadyThere, token, "--token")


def test_an_embedding_for_sdxl_or_of_several_words(refused, tmp_path):
    save_file({"clip_l": drawn(1, 2, 24), "clip_g": drawn(1, 2, 32)}, tmp_path / "xl.safetensors")
    refused(tmp_path / "xl.safetensors", Unsupported, "SDXL")
    torch.save({"string_to_param": {"*": drawn(1, 2, 24), "+": drawn(1, 2, 24)}}, tmp_path / "two.pt")
    refused(tmp_path / "two.pt", Mismatch, "2 vectors")
    torch.save({"string_to_param": {"*": "a word"}}, tmp_path / "word.pt")
    refused(tmp_path / "word.pt", NotFound)


def test_a_bare_tensor_that_is_no_aesthetic_embedding(refused, tmp_path):
    torch.save(drawn(1, 3, 20), tmp_path / "rows.pt")
    refused(tmp_path / "rows.pt", Mismatch, "[3, 20]", "[1, d]")
    torch.save(torch.tensor([[float("nan")] * 4]), tmp_path / "nan.pt")
    refused(tmp_path / "nan.pt", NotFinite)


def test_tensors_of_unknown_names(refused, tmp_path):
    save_file({"layer.0.weight": drawn(1, 2, 2), "layer.1.bias": drawn(1, 3)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", Unsupported, "layer.0.weight, layer.1.bias")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", Unsupported, "a list")


def test_an_addition_without_a_model(tmp_path):
    save_file({"<wren>": drawn(1, 1, 24)}, tmp_path / "wren.safetensors")
    with refuses("wren.safetensors", "--base", kind=NotSet):
        import_file(Asked(tmp_path / "wren.safetensors"), tmp_path / "made")


def test_a_codec_that_is_none(grand_folder, checkpoint, tmp_path):
    asked = Asked(checkpoint, codec=str(tmp_path / "nowhere"))
    with refuses("nowhere", kind=NotFound):
        import_file(asked, tmp_path / "made")


def test_folders_that_hold_no_model(tmp_path, autoencoder_folder):
    with refuses(str(tmp_path), kind=NotFound):
        Exported.open(tmp_path, "x")
    with refuses("'autoencoder'", kind=Unsupported):
        Exported.open(autoencoder_folder, "x")
