"""LoRA and embeddings as other programs write them in the field: read rightly, or refused at import."""

from __future__ import annotations

import collections
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from birdsd.diffusion import adapters
from birdsd.diffusion.formats.companions import Exported
from birdsd.diffusion.formats.exporter import write_format
from birdsd.diffusion.formats.importer import Asked, import_file
from birdsd.diffusion.generation.generator import Generator
from birdsd.errors import Damaged, Mismatch, Unsupported, UserError
from birdsd.files import read_json
from tests.support.errors import refuses
from tests.support.formats_makers import drawn, latents, load
from tests.support.formats_makers import grand_folder as grand_folder
from tests.support.formats_makers import lora_folder as lora_folder

LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"  # 8 in, 8 out
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"  # 3 x 3, 8 in, 8 out
POINT = "lora_unet_down_blocks_0_attentions_0_proj_in"  # 1 x 1, 8 in, 8 out


@pytest.fixture
def kohya(lora_folder, tmp_path):
    return write_format(Exported.open(lora_folder, "lora"), "kohya", tmp_path / "sent").files[0]


@pytest.fixture
def bring(grand_folder, tmp_path):
    """Import tensors as a file on the grand model."""

    def attempt(tensors, name="theirs", metadata=None, **options):
        path = tmp_path / f"{name}.safetensors"
        save_file({key: t.contiguous() for key, t in tensors.items()}, path, metadata)
        return import_file(Asked(path, base=str(grand_folder), **options), tmp_path / "made" / name)

    return attempt


@pytest.fixture
def refused(bring, tmp_path):
    def attempt(tensors, kind=None, **options):
        with pytest.raises(UserError) as caught:
            bring(tensors, **options)
        assert "theirs.safetensors" in str(caught.value) and type(caught.value) is not UserError
        assert kind is None or type(caught.value) is kind
        assert not (tmp_path / "made").exists() or not list((tmp_path / "made").iterdir())
        return str(caught.value)

    return attempt


def stored(made):
    return load_file(made.folder / adapters.LORA_FILE)


def with_added(folder, made):
    pipeline = load(folder)
    adapters.apply(pipeline, [adapters.Adapter.open(made.folder)])
    return latents(pipeline)


def pair(layer=LAYER, rank=2, into=8, out=8, down=(), up=(), alpha=1.0):
    return {
        f"{layer}.lora_down.weight": drawn(1, rank, into, *down),
        f"{layer}.lora_up.weight": drawn(2, out, rank, *up),
        f"{layer}.alpha": torch.tensor(alpha),
    }


# -- shapes -----------------------------------------------------------------------------------------------


def test_linear_layers_stored_as_convolutions_are_the_same_update(kohya, bring, grand_folder):
    weights = load_file(kohya)
    flat = {k for k, t in weights.items() if t.ndim == 2}
    assert any("_te_" in k for k in flat) and any("attn2" in k for k in flat)
    plain = bring(weights, "plain")
    wide = bring({k: t[..., None, None] if k in flat else t for k, t in weights.items()}, "wide")
    odd = bring({k: t[..., None] if k in flat else t for k, t in weights.items()}, "odd")  # a conv1d
    for made in (wide, odd):
        assert all(torch.equal(t, stored(made)[k]) for k, t in stored(plain).items())
    assert torch.equal(with_added(grand_folder, wide), with_added(grand_folder, plain))


def test_convolutions_stored_as_linear_layers_are_the_same_update(kohya, bring):
    weights = load_file(kohya)
    points = {k: t.flatten(1) if t.ndim == 4 and t.shape[2:] == (1, 1) else t for k, t in weights.items()}
    assert sum(t.ndim == 2 for t in points.values()) > sum(t.ndim == 2 for t in weights.values())
    plain, flat = bring(weights, "plain"), bring(points, "flat")
    assert all(torch.equal(t, stored(flat)[k]) for k, t in stored(plain).items())


@pytest.mark.parametrize(
    ("tensors", "word"),
    [
        ({**pair(), f"{LAYER}.lora_up.weight": drawn(2, 8, 7)}, "ranks 2 (down [2, 8]) and 7"),
        (
            pair(into=9),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q is [2, 9]",
        ),
        (
            pair(out=9),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q is [9, 2]",
        ),
        (pair(rank=0), ("rank of 1", "[0, 8]")),
        (pair(down=(3, 3), up=(1, 1)), ("[2, 8, 3, 3]", "[8, 8]")),
        (pair(CONV), ("[2, 8]", "[8, 8, 3, 3]")),
        (pair(CONV, down=(1, 1), up=(1, 1)), ("[2, 8, 1, 1]", "[8, 8, 3, 3]")),
        (pair(CONV, down=(3, 3), up=(3, 3)), "up factor"),
        (pair(POINT, down=(3, 3)), ("[2, 8, 3, 3]", "[8, 8, 1, 1]")),
    ],
)
def test_a_lora_that_does_not_fit_is_refused_at_import(refused, tensors, word):
    said = refused(tensors)
    assert all(one in said for one in ((word,) if isinstance(word, str) else word))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({f"{LAYER}.alpha": torch.tensor([1.0, 2.0])}, "is float32 [2]"),
        ({f"{LAYER}.lora_up.weight": torch.ones(8, 2, dtype=torch.int8)}, "is int8 [8, 2]"),
        ({f"{LAYER}.lora_up.weight": torch.ones(16)}, "is float32 [16]"),
        (
            {f"{LAYER.replace('unet', 'unet_nowhere')}.alpha": torch.ones(())},
            "unet_nowhere",
        ),
    ],
)
def test_parts_that_are_none_are_named(refused, change, word):
    assert word in refused({**pair(), **change})


@pytest.mark.parametrize("said", ["{", "[]", '{"unet.lora_alpha": NaN}', '{"unet.lora_alpha": "much"}'])
def test_an_alpha_in_text_that_makes_no_sense_is_refused(refused, said):
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{layer}.lora_A.weight": drawn(1, 2, 8), f"{layer}.lora_B.weight": drawn(2, 8, 2)}
    assert "is invalid" in refused(tensors, metadata={"lora_adapter_metadata": said})


def test_a_word_in_the_header_that_is_no_codec_is_passed_over(kohya, bring):
    assert bring(load_file(kohya), "plain", metadata={"codec": "h264"}).made


def test_one_layer_under_two_names_is_refused(refused):
    named = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"
    once = pair(named, into=24, out=24)
    twice = {name.replace("lora_te_", "lora_te1_"): t.clone() for name, t in once.items()}
    assert any(name in refused({**once, **twice}, kind=Damaged) for name in (*once, *twice))


def test_what_was_imported_before_and_does_not_fit_is_refused_where_it_is_added(lora_folder, grand_folder):
    """Folders from before shapes were compared at import."""
    file = lora_folder / adapters.LORA_FILE
    # Of their own memory: older versions of safetensors keep the file mapped, and it is written to.
    weights, before = {name: t.clone() for name, t in load_file(file).items()}, file.read_bytes()
    linear = next(k for k, t in weights.items() if k.endswith("lora_B.weight") and t.ndim == 2)
    try:
        for changed, named in (
            (weights[linear][:, :-1], "ranks 2 and 1"),
            (weights[linear][..., None, None], "lora_B.weight is [32, 2, 1, 1]"),
        ):
            save_file({**weights, linear: changed.contiguous()}, file, {"format": "pt"})
            with refuses(named, "birdsd import"):
                Generator(grand_folder, adapters=[adapters.Adapter.open(lora_folder)])
    finally:
        file.write_bytes(before)


# -- spellings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_read_as_float32(kohya, bring, dtype):
    plain = bring(load_file(kohya), "plain")
    other = bring({k: t.to(dtype) for k, t in load_file(kohya).items()}, "other")
    for name, tensor in stored(plain).items():
        assert stored(other)[name].dtype == torch.float32
        assert torch.allclose(stored(other)[name], tensor, rtol=0.02, atol=0.02)


def test_without_alphas_they_are_the_ranks(kohya, bring):
    weights = load_file(kohya)
    ranked = {}
    for name, tensor in weights.items():
        rank = float(len(weights[name.replace(".alpha", ".lora_down.weight")])) if "alpha" in name else 0.0
        ranked[name] = torch.tensor(rank) if "alpha" in name else tensor
    with_rank = bring(ranked, "ranked")
    without = bring({k: t for k, t in weights.items() if "alpha" not in k}, "without")
    assert all(torch.equal(t, stored(without)[k]) for k, t in stored(with_rank).items())


def test_other_names_of_the_text_encoder_and_an_order_of_any_kind(kohya, bring):
    plain = bring(load_file(kohya), "plain")
    renamed = {k.replace("lora_te_", "lora_te1_"): t for k, t in reversed(list(load_file(kohya).items()))}
    assert all(torch.equal(t, stored(bring(renamed, "renamed"))[k]) for k, t in stored(plain).items())


@pytest.mark.parametrize(
    ("name", "what"),
    [
        (f"{LAYER}.hada_w1_a", "a LoHa"),
        (f"{LAYER}.lokr_w2_b", "a LoKr"),
        (f"{LAYER}.dora_scale", "a DoRA"),
        ("base_model.model.unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "a DoRA"),
        (f"{LAYER}.lora_mid.weight", "a third factor"),
        (f"{LAYER}.oft_blocks", "an OFT"),
        (f"{LAYER}.diff", "a full update"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "for SDXL"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "for Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "for Flux"),
        ("lora_unet_joint_blocks_0_context_block_attn_qkv.lora_up.weight", "for Stable Diffusion 3"),
    ],
)
def test_updates_of_other_kinds_and_models_are_named(refused, name, what):
    assert what in (said := refused({**pair(), name: drawn(3, 2, 2)})) and name in said


@pytest.mark.parametrize(
    ("width", "metadata", "what"),
    [
        (2048, None, "SDXL"),
        (1024, None, "Stable Diffusion 2"),
        (768, None, "Stable Diffusion 1"),
        (768, {"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl_base_v1-0"),
        (64, {"modelspec.architecture": "stable-diffusion-v1/lora"}, "stable-diffusion-v1/lora"),
    ],
)
def test_the_model_that_a_lora_was_made_for_is_told(refused, width, metadata, what):
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    assert f" {what}" in refused(pair(layer, into=width), Mismatch, metadata=metadata)


# -- a LoRA and its tokens in one file --------------------------------------------------------------------


def test_a_bundle_becomes_a_lora_and_a_folder_for_each_token(kohya, bring, grand_folder):
    tokens = {"<wren>": drawn(6, 1, 24), "mybird": drawn(5, 2, 24)}
    bundle = {f"bundle_emb.{name}.string_to_param.*": rows for name, rows in tokens.items()}
    plain = bring(load_file(kohya), "plain")
    made = bring({**bundle, **load_file(kohya)}, "both")
    assert (made.kind, made.form, made.made) == ("lora", "kohya lora", True)
    assert all(torch.equal(t, stored(made)[k]) for k, t in stored(plain).items())
    assert [(one.folder.name, one.kind) for one in made.also] == [
        ("both-wren", "embedding"),
        ("both-mybird", "embedding"),
    ]
    for one, (name, rows) in zip(made.also, tokens.items(), strict=True):
        assert read_json(one.folder / "training.json")["tokens"] == {name: len(rows)}
    model = Generator(made.folder, adapters=[adapters.Adapter.open(one.folder) for one in made.also])
    assert model.wording("a mybird and a <wren>") == "a mybird mybird_1 and a <wren>"
    table = model.pipeline.text_encoder.get_input_embeddings().weight
    number = model.pipeline.tokenizer.convert_tokens_to_ids("mybird")
    assert torch.equal(table[number : number + 2].detach(), tokens["mybird"])
    again = bring({**bundle, **load_file(kohya)}, "both")
    assert not again.made and len(again.also) == 2
    other = bring({**dict([next(iter(bundle.items()))]), **load_file(kohya)}, "named", token="<b>")
    assert read_json(other.also[0].folder / "training.json")["tokens"] == {"<b>": 1}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"bundle_emb.a.string_to_param.*": drawn(5, 2, 24)}, "exists already"),
        ({"bundle_emb.mybird.string_to_param.*": drawn(5, 2, 25)}, "25 wide"),
        ({"bundle_emb.mybird.clip_g": drawn(5, 2, 24)}, "SDXL"),
        ({f"{LAYER}.lora_up.weight": drawn(2, 8, 7)}, "ranks 2 (down [2, 8]) and 7"),
    ],
)
def test_a_bundle_comes_in_whole_or_not_at_all(refused, change, word):
    good = {"bundle_emb.fine.string_to_param.*": drawn(5, 2, 24)}
    assert word in refused({**good, **pair(), **change})


def test_the_command_line_tells_of_both_folders(kohya, grand_folder, tmp_path, monkeypatch, capfd):
    from birdsd.cli.main import main

    monkeypatch.chdir(tmp_path)
    bundle = {"bundle_emb.mybird.string_to_param.*": drawn(5, 2, 24)}
    save_file({**bundle, **load_file(kohya)}, tmp_path / "b.safetensors")
    assert main(["import", "b.safetensors", "--base", str(grand_folder)]) == 0
    said = capfd.readouterr().out
    assert "imported/b-mybird: embedding" in said and "add=[imported/b-mybird]" in said


# -- PyTorch's own containers -----------------------------------------------------------------------------


def test_a_parameter_dict_is_read(grand_folder, tmp_path):
    rows = drawn(5, 2, 24)
    param = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows)})
    torch.save({"string_to_token": {"*": torch.tensor(265)}, "string_to_param": param}, tmp_path / "wren.pt")
    made = import_file(Asked(tmp_path / "wren.pt", base=str(grand_folder), token="<w>"), tmp_path / "made")
    assert torch.equal(load_file(made.folder / "embeddings" / "w.safetensors")["<w>"], rows)


@pytest.mark.parametrize("kind", ["plain tensors", "alone"])
def test_a_parameter_dict_of_other_makes(grand_folder, tmp_path, kind):
    rows = drawn(6, 1, 24)
    param = torch.nn.ParameterDict({"*": rows if kind == "plain tensors" else torch.nn.Parameter(rows)})
    whole = torch.nn.ParameterDict({"<w>": rows}) if kind == "alone" else {"string_to_param": param}
    torch.save(whole, tmp_path / "w.pt")
    made = import_file(Asked(tmp_path / "w.pt", base=str(grand_folder), token="<w>"), tmp_path / "made")
    assert torch.equal(load_file(made.folder / "embeddings" / "w.safetensors")["<w>"], rows)


def test_a_parameter_dict_in_pytorchs_old_file_format_is_refused_with_the_reason(grand_folder, tmp_path):
    param = torch.nn.ParameterDict({"*": torch.nn.Parameter(drawn(5, 2, 24))})
    torch.save({"string_to_param": param}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with refuses("PyTorch 1.6", kind=Unsupported) as caught:
        import_file(Asked(tmp_path / "old.pt", base=str(grand_folder)), tmp_path / "made")
    assert "weights_only" not in str(caught.value)  # PyTorch's own advice is to switch the check off


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/birdsd-ran-from-a-container",)


@pytest.mark.parametrize("place", ["hook", "keys", "parameter"])
def test_a_container_runs_nothing(grand_folder, tmp_path, place):
    param = torch.nn.ParameterDict({"*": torch.nn.Parameter(drawn(5, 2, 24))})
    if place == "hook":
        param._forward_hooks[0] = Evil()
    elif place == "keys":
        param._keys = Evil()
    else:
        param._parameters["*"] = Evil()
    torch.save({"string_to_param": param}, tmp_path / "wren.pt")
    with refuses(("wren.pt", "posix.system"), kind=Unsupported):
        import_file(Asked(tmp_path / "wren.pt", base=str(grand_folder)), tmp_path / "made")
    assert not os.path.exists("/tmp/birdsd-ran-from-a-container") and not (tmp_path / "made").exists()


def test_a_container_that_makes_no_sense_is_refused(grand_folder, tmp_path):
    param = torch.nn.ParameterDict({"*": torch.nn.Parameter(drawn(5, 2, 24))})
    param.__dict__["_parameters"] = collections.OrderedDict()
    torch.save({"string_to_param": param}, tmp_path / "empty.pt")
    with refuses("empty.pt", kind=Mismatch):
        import_file(Asked(tmp_path / "empty.pt", base=str(grand_folder)), tmp_path / "made")
    torch.save(torch.nn.Embedding(3, 24), tmp_path / "module.pt")
    with refuses(("module.pt", "torch.nn.modules.sparse.Embedding"), kind=Unsupported):
        import_file(Asked(tmp_path / "module.pt", base=str(grand_folder)), tmp_path / "made")
