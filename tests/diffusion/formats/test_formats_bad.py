"""What cannot be read or does not fit is refused in a sentence, and leaves nothing behind."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.errors import NotFound, Unsupported, UserError
from tests.support.errors import refuses
from tests.support.formats_makers import drawn
from tests.support.formats_makers import grand_folder as grand_folder
from tests.support.formats_makers import lora_folder as lora_folder


def send(folder, name, out):
    return write_format(Exported.open(folder, folder.parent.name), name, out).files[0]


@pytest.fixture
def refused(grand_folder, tmp_path):
    """Import a file on the grand model, and return the refusal."""

    def attempt(path, **options):
        given = {"base": str(grand_folder), "codec": str(grand_folder), **options}
        with pytest.raises(UserError) as caught:
            import_file(Asked(path, **given), tmp_path / "made")
        assert not (tmp_path / "made").exists()
        error = caught.value
        assert error.problem and str(path.name) in str(error), error
        return str(error)

    return attempt


@pytest.fixture
def checkpoint(grand_folder, tmp_path):
    return send(grand_folder, "a1111", tmp_path / "out")


def test_a_path_that_is_not_there_or_a_folder(refused, tmp_path):
    assert "does not exist" in refused(tmp_path / "nothing.safetensors")
    (tmp_path / "folder").mkdir()
    save_file({"a": drawn(1, 2)}, tmp_path / "folder" / "lora.safetensors")
    assert "is a folder" in (text := refused(tmp_path / "folder")) and "lora.safetensors" in text


def test_a_name_that_says_nothing(refused, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"123")
    assert "unknown kind of file '.onnx'" in refused_plain(tmp_path / "model.onnx", tmp_path)


def refused_plain(path, tmp_path):
    with pytest.raises(UserError) as caught:
        import_file(Asked(path), tmp_path / "made")
    return str(caught.value)


@pytest.mark.parametrize("kept", [0, 6, 200, -100])
def test_a_safetensors_file_that_was_cut_short(refused, checkpoint, tmp_path, kept):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:kept])
    assert "cannot be read" in (text := refused(cut)) and "bytes)" in text and "fetch it again" in text


@pytest.mark.parametrize("kept", [0, 6, 2000, -100])
def test_a_ckpt_that_was_cut_short(refused, grand_folder, tmp_path, kept):
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(send(grand_folder, "ckpt", tmp_path / "out").read_bytes()[:kept])
    assert "cannot be read" in refused(cut)


class Foreign:
    def __reduce__(self):
        return os.system, ("touch /tmp/birdsd-was-here",)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".bin"])
def test_foreign_objects_in_a_pickle_are_refused_and_not_run(refused, tmp_path, suffix):
    path = tmp_path / f"theirs{suffix}"
    torch.save({"state_dict": {"a": drawn(1, 2)}, "callback": Foreign()}, path)
    text = refused(path)
    assert "system" in text and "could run a program" in text and ".safetensors" in text
    assert not os.path.exists("/tmp/birdsd-was-here")


def test_a_pickled_module_is_refused(refused, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "module.pt")


def test_a_checkpoint_with_missing_keys(refused, checkpoint):
    weights = load_file(checkpoint)
    gone = [name for name in weights if ".output_blocks.8." in name]
    save_file({name: t for name, t in weights.items() if name not in gone}, checkpoint)
    text = refused(checkpoint)
    assert f"lacks {min(gone)}" in text and f"and {len(gone) - 3} more" in text


def test_a_checkpoint_with_keys_of_another_architecture(refused, checkpoint):
    weights = load_file(checkpoint)
    save_file(
        {**weights, "model.diffusion_model.input_blocks.12.0.in_layers.0.weight": drawn(1, 8)}, checkpoint
    )
    assert "has unexpected model.diffusion_model.input_blocks.12" in refused(checkpoint)


def test_a_checkpoint_of_other_widths(refused, checkpoint):
    weights = load_file(checkpoint)
    weights["model.diffusion_model.input_blocks.0.0.weight"] = drawn(1, 9, 4, 3, 3)
    save_file(weights, checkpoint)
    text = refused(checkpoint)
    assert "input_blocks.0.0.weight has the shape [9, 4, 3, 3]" in text and "[8, 4, 3, 3]" in text


def test_a_checkpoint_on_a_base_of_another_architecture(refused, checkpoint, pipeline_folder):
    text = refused(checkpoint, base=str(pipeline_folder))
    assert "lacks" in text or "unexpected" in text or "has the shape" in text
    assert "--base" in text


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
    assert what in refused(tmp_path / "theirs.safetensors")


def test_a_lora_for_another_architecture(refused, lora_folder, pipeline_folder, tmp_path):
    for name in ("kohya", "diffusers-lora"):
        file = send(lora_folder, name, tmp_path)
        text = refused(file, base=str(pipeline_folder))
        assert "does not have" in text and "--base" in text


def test_a_lora_of_other_widths(refused, lora_folder, tmp_path):
    file = send(lora_folder, "kohya", tmp_path)
    update = load_file(file)
    key = next(name for name in update if name.endswith("attn2_to_k.lora_down.weight"))
    update[key] = drawn(1, update[key].shape[0], 768)
    save_file(update, file)
    assert "the layer's weight is [" in (text := refused(file)) and "768]" in text


def test_half_a_lora(refused, lora_folder, tmp_path):
    file = send(lora_folder, "kohya", tmp_path)
    update = load_file(file)
    key = next(name for name in update if name.endswith("lora_up.weight"))
    save_file({name: tensor for name, tensor in update.items() if name != key}, file)
    assert "only half of the update" in refused(file)


@pytest.mark.parametrize("leaf", ["hada_w1_a", "lokr_w1", "dora_scale", "lora_mid.weight"])
def test_updates_of_other_kinds_are_named(refused, tmp_path, leaf):
    layer = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{layer}.{leaf}": drawn(1, 2, 2), f"{layer}.lora_down.weight": drawn(1, 2, 2)}
    save_file(tensors, tmp_path / "theirs.safetensors")
    assert "plain LoRA" in refused(tmp_path / "theirs.safetensors")


def test_peft_weights_without_their_configuration(refused, lora_folder, tmp_path):
    folder = send(lora_folder, "peft", tmp_path).parent
    (folder / "adapter_config.json").unlink()
    assert "has no adapter_config.json beside it" in refused(folder / "adapter_model.safetensors")


def test_an_embedding_of_the_wrong_width(refused, tmp_path):
    save_file({"<wren>": drawn(1, 1, 768)}, tmp_path / "wren.safetensors")
    assert "<wren> is 768 wide" in (text := refused(tmp_path / "wren.safetensors")) and "24 wide" in text


@pytest.mark.parametrize("token", ["<|endoftext|>", "a", "A"])
def test_a_token_that_exists_already(refused, tmp_path, token):
    save_file({token: drawn(1, 1, 24)}, tmp_path / "theirs.safetensors")
    assert "exists already" in (text := refused(tmp_path / "theirs.safetensors")) and "--token" in text


def test_an_embedding_for_sdxl_or_of_several_words(refused, tmp_path):
    save_file({"clip_l": drawn(1, 2, 24), "clip_g": drawn(1, 2, 32)}, tmp_path / "xl.safetensors")
    assert "SDXL" in refused(tmp_path / "xl.safetensors")
    torch.save({"string_to_param": {"*": drawn(1, 2, 24), "+": drawn(1, 2, 24)}}, tmp_path / "two.pt")
    assert "2 vectors of different names" in refused(tmp_path / "two.pt")
    torch.save({"string_to_param": {"*": "a word"}}, tmp_path / "word.pt")
    assert "holds no vectors" in refused(tmp_path / "word.pt")


def test_a_bare_tensor_that_is_no_aesthetic_embedding(refused, tmp_path):
    torch.save(drawn(1, 3, 20), tmp_path / "rows.pt")
    assert "one vector, [1, d]" in refused(tmp_path / "rows.pt")
    torch.save(torch.tensor([[float("nan")] * 4]), tmp_path / "nan.pt")
    assert "not finite" in refused(tmp_path / "nan.pt")


def test_tensors_of_unknown_names(refused, tmp_path):
    save_file({"layer.0.weight": drawn(1, 2, 2), "layer.1.bias": drawn(1, 3)}, tmp_path / "other.safetensors")
    assert "layer.0.weight, layer.1.bias" in refused(tmp_path / "other.safetensors")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list" in refused(tmp_path / "list.pt")


def test_an_addition_without_a_model(tmp_path):
    save_file({"<wren>": drawn(1, 1, 24)}, tmp_path / "wren.safetensors")
    assert "needs a base model" in (text := refused_plain(tmp_path / "wren.safetensors", tmp_path))
    assert "--base" in text


def test_a_codec_that_is_none(grand_folder, checkpoint, tmp_path):
    asked = Asked(checkpoint, codec=str(tmp_path / "nowhere"))
    with refuses("nowhere", kind=NotFound):
        import_file(asked, tmp_path / "made")


def test_folders_that_hold_no_model(tmp_path, autoencoder_folder):
    with refuses(str(tmp_path), kind=NotFound):
        Exported.open(tmp_path, "x")
    with refuses("'autoencoder'", kind=Unsupported):
        Exported.open(autoencoder_folder, "x")
