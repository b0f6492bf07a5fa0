"""LoRA in the three namings that are about: diffusers', peft's and kohya's (AUTOMATIC1111, ComfyUI).

One update is W + (alpha / rank) up @ down. In between, layers have diffusers' names, and those of the text
encoder no `text_model.` first: files have it, the newer versions of transformers have not.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.adapters import factor_shapes
from birdsd.diffusion.formats.ldm import module_names
from birdsd.diffusion.networks.finite import check_finite
from birdsd.errors import Damaged, Mismatch, NotFound, Unsupported, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from birdsd.diffusion.formats.tensors import Content

PARTS = ("unet", "text_encoder")
METADATA = "lora_adapter_metadata"  # where diffusers keeps rank and alpha
_FULL = "text_model."
_KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
# Modules of names -> updates of another kind, or for another model.
_FOREIGN = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lora_mid": "a LoCon with a third factor",
    ".oft_": "an OFT or BOFT",
    "lora_te2_": "for SDXL",
    "text_encoder_2.": "for SDXL",
    "lora_unet_double_blocks": "for Flux",
    "lora_unet_single_blocks": "for Flux",
    "lora_unet_joint_blocks": "for Stable Diffusion 3",
    "lora_transformer_": "for a model with a transformer in the UNet's place (Flux, Stable Diffusion 3)",
    "transformer.transformer_blocks": "for a model with a transformer in the UNet's place (Flux, Stable "
    "Diffusion 3)",
    "transformer.single_transformer_blocks": "for Flux",
    "lora_prior_": "for Stable Cascade",
}
_FOREIGN_ENDS = {".diff": "a full update (LyCORIS)", ".diff_b": "a full update (LyCORIS)"}
_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "SDXL"}  # of the text's states
_ATTENDS = re.compile(r"attn2[._]to_[kv][._].*(lora_A|lora_down|\.down)\b")
_BUNDLE, _BUNDLE_END = "bundle_emb.", ".string_to_param.*"


@dataclass(frozen=True)
class Update:
    """The update of one layer: down [rank, in, ...], up [out, rank, ...]."""

    down: Tensor
    up: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def folded(self) -> Update:
        """The same update with alpha = rank: what programs assume that find no alpha."""
        if self.alpha == self.rank:
            return self
        return Update(self.down, self.up * (self.alpha / self.rank), float(self.rank))


Lora = dict[tuple[str, str], Update]  # (part, module) -> update


def is_lora(names: Iterable[str]) -> bool:
    """Whether tensors of these names are low-rank updates, ours or of a kind that is refused."""
    marks = ("lora_", ".lora.", "hada_w", "lokr_w", "_lora.", ".oft_")
    return any(mark in name for name in names for mark in marks)


def unbundled(content: Content) -> tuple[Content, dict[str, Tensor]]:
    """A LoRA's file without the embeddings that OneTrainer and others bundle with it, and those by token."""
    bundled = {name: tensor for name, tensor in content.tensors.items() if name.startswith(_BUNDLE)}
    if not bundled:
        return content, {}
    found = {}
    for name, tensor in bundled.items():
        if not name.endswith(_BUNDLE_END):
            raise Unsupported(
                f"{content.path} bundles an embedding in {name}",
                "one for Stable Diffusion 1 is named bundle_emb.TOKEN.string_to_param.*; those for SDXL end "
                "in clip_l and clip_g",
                "find such a file",
            )
        found[name.removeprefix(_BUNDLE).removesuffix(_BUNDLE_END)] = tensor
    rest = {name: tensor for name, tensor in content.tensors.items() if name not in bundled}
    return replace(content, tensors=rest), found


def read_lora(content: Content, modules: Mapping[str, Iterable[str]]) -> tuple[str, Lora]:
    """(naming, updates) of a file in any of the three namings. `modules`: {part: names of the base's
    modules}; an update of a module that is not among them, and one that is none, is a `UserError`.
    """
    _refuse_foreign(content)
    check_finite(content.tensors, content.path)
    naming = _naming(content)
    known = {part: {name.removeprefix(_FULL) for name in names} for part, names in modules.items()}
    table = _kohya_table(known) if naming == "kohya" else {}
    halves: dict[tuple[str, str], dict[str, Any]] = {}
    for name, tensor in content.tensors.items():
        layer, half = _split(name)
        if half is None:
            raise Unsupported(f"{content.path} holds {name}", "a LoRA holds factors and alphas alone")
        parts = halves.setdefault(_place(layer, table, known, content), {})
        if half in parts:
            raise Damaged(
                f"{content.path} holds {name}, and the same factor of that layer under another name",
                "each layer has one update",
                "fetch the file again",
            )
        parts[half] = _sound(tensor, half, name, content)
    alpha_of = _alphas(content, naming)
    found: Lora = {}
    for place, parts in halves.items():
        if not {"down", "up"} <= parts.keys():
            raise Damaged(
                f"{content.path} has only half of the update of {'.'.join(place)}",
                "each has a down and an up factor",
                "fetch the file again",
            )
        down, up = parts["down"].float(), parts["up"].float()
        if down.shape[0] != up.shape[1]:
            raise Mismatch(
                f"{content.path}: the factors of {'.'.join(place)} are of the ranks {down.shape[0]} (down "
                f"{list(down.shape)}) and {up.shape[1]} (up {list(up.shape)})",
                "up @ down needs one rank",
                "fetch the file again, or make it again",
            )
        if not down.numel() or not up.numel():
            raise Damaged(
                f"{content.path}: the update of {'.'.join(place)} is empty (down {list(down.shape)})",
                "a LoRA has a rank of 1 or more",
                "fetch the file again, or make it again",
            )
        rank = float(down.shape[0])
        with _explained(content, "the alpha"):
            alpha = float(parts["alpha"]) if "alpha" in parts else alpha_of(place, rank)
            if not math.isfinite(alpha):
                raise ValueError(f"{alpha} is no finite number")
        found[place] = Update(down, up, alpha)
    return naming, found


def _sound(tensor: Tensor, half: str, name: str, content: Content) -> Tensor:
    """The tensor itself, where it can be what its name says."""
    possible = tensor.numel() == 1 if half == "alpha" else tensor.ndim in (2, 3, 4)
    if not possible or (half != "alpha" and not tensor.is_floating_point()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise Damaged(
            f"{content.path}: {name} is {dtype} {list(tensor.shape)}",
            "alpha is one number; a factor is floating, of 2 dimensions or (of a convolution) 4",
            "fetch the file again",
        )
    return tensor


def fitted(lora: Lora, weights: Mapping[str, Mapping[str, tuple[int, ...]]], content: Content) -> Lora:
    """The updates in the shapes of the layers that they are for; `weights`: {part: {module: shape}}.

    A linear layer's factors that were stored as 1x1 convolutions, and the other way round, are the same
    update. Any other difference is a `UserError`.
    """
    shapes = {
        (part, name.removeprefix(_FULL)): shape
        for part, layers in weights.items()
        for name, shape in layers.items()
    }
    found: Lora = {}
    for place, update in lora.items():
        weight = shapes[place]
        made = []
        for half, wanted in zip(("down", "up"), factor_shapes(weight, update.rank), strict=True):
            factor: Tensor = getattr(update, half)
            ones = [tuple(n for n in shape[2:] if n != 1) for shape in (factor.shape, wanted)]
            if factor.shape[:2] != wanted[:2] or ones[0] != ones[1]:
                raise Mismatch(
                    f"{content.path}: the {half} factor of {'.'.join(place)} is {list(factor.shape)}, the "
                    f"layer's weight is {list(weight)}{_made_for(content)}",
                    "a LoRA fits models of the architecture that it was made for only",
                    "name the model that it was made for with --base",
                )
            made.append(factor.reshape(wanted))
        found[place] = Update(made[0], made[1], update.alpha)
    return found


def _refuse_foreign(content: Content) -> None:
    for name in content.tensors:
        what = next((what for mark, what in _FOREIGN.items() if mark in name), None)
        what = what or next((what for end, what in _FOREIGN_ENDS.items() if name.endswith(end)), None)
        if what is not None:
            raise Unsupported(
                f"{content.path} is {what} ({name})",
                "plain LoRA of Stable Diffusion 1 is read",
                "find such a file, or merge it into its model with its own tools and import that",
            )


def _made_for(content: Content) -> str:
    """What a file says, or its widths, of the model that it was made for; "" where nothing tells."""
    trained_for = content.metadata.get("ss_base_model_version") or content.metadata.get(
        "modelspec.architecture"
    )
    widths = {tensor.shape[1] for name, tensor in content.tensors.items() if _ATTENDS.search(name)}
    width = _WIDTHS.get(widths.pop()) if len(widths) == 1 else None
    return f"; it was made for {trained_for or width}" if trained_for or width else ""


def _naming(content: Content) -> str:
    if any(name.startswith(("lora_unet_", "lora_te_", "lora_te1_")) for name in content.tensors):
        return "kohya"
    return "peft" if any(name.startswith("base_model.model.") for name in content.tensors) else "diffusers"


# Ends of names -> which factor; the older ones of diffusers come from its attention processors.
_HALVES = (
    (re.compile(r"\.lora_A(\.default)?\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.default)?\.weight$"), "up"),
    (re.compile(r"\.lora_down\.weight$"), "down"),
    (re.compile(r"\.lora_up\.weight$"), "up"),
    (re.compile(r"\.lora(_linear_layer)?\.down\.weight$"), "down"),
    (re.compile(r"\.lora(_linear_layer)?\.up\.weight$"), "up"),
    (re.compile(r"_lora\.down\.weight$"), "down"),
    (re.compile(r"_lora\.up\.weight$"), "up"),
    (re.compile(r"\.alpha$"), "alpha"),
)


def _split(name: str) -> tuple[str, str | None]:
    for pattern, half in _HALVES:
        if match := pattern.search(name):
            return name[: match.start()], half
    return name, None


def layer_of(name: str) -> str:
    """The layer that a tensor of a LoRA belongs to."""
    return _split(name)[0]


def _place(
    layer: str, table: Mapping[str, tuple[str, str]], known: Mapping[str, set[str]], content: Content
) -> tuple[str, str]:
    """(part, module) that a file's name of a layer means; `table` is not empty for kohya's names."""
    if table:
        found = table.get(layer.replace("lora_te1_", "lora_te_"))
    else:
        found = _dotted(layer.removeprefix("base_model.model."), known)
    if found is None:
        raise Mismatch(
            f"{content.path} updates {layer}, which the base model does not have{_made_for(content)}",
            "a LoRA fits models of the architecture that it was made for only",
            "name the model that it was made for with --base",
        )
    return found


def _dotted(layer: str, known: Mapping[str, set[str]]) -> tuple[str, str] | None:
    part = next((p for p in PARTS if layer.startswith(p + ".")), None)
    module = layer.removeprefix(f"{part}.") if part else layer
    module = module.replace(".processor", "")
    # diffusers' older names, of attention processors
    module = re.sub(r"self_attn\.to_(q|k|v|out)$", r"self_attn.\1_proj", module)
    module = re.sub(r"\.to_out$", ".to_out.0", module)
    bare = module.removeprefix(_FULL)
    return next(((one, bare) for one in ((part,) if part else PARTS) if bare in known.get(one, ())), None)


def _kohya_table(known: Mapping[str, set[str]]) -> dict[str, tuple[str, str]]:
    """kohya's name of each module: dots become underscores, which cannot be undone without this list.

    Some trainers name the UNet's layers as the original code does: those names are in it too.
    """
    table = {}
    for part in PARTS:
        for module in known.get(part, ()):
            table[_KOHYA[part] + _full(part, module).replace(".", "_")] = (part, module)
    with suppress(UserError):  # a UNet that the original code does not know has no such names
        for module, theirs in module_names("unet", sorted(known.get("unet", ()))).items():
            table.setdefault(_KOHYA["unet"] + theirs.replace(".", "_"), ("unet", module))
    return table


@contextmanager
def _explained(content: Content, where: str) -> Iterator[None]:
    """What stands in text beside the weights and makes no sense, as a `UserError`."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise Damaged(
            f"{content.path}: {where} is invalid ({error})",
            "it scales the update",
            "fetch the file again",
        ) from error


def _alphas(content: Content, naming: str) -> Any:
    """(place, rank) -> alpha, from what the file says in text: diffusers' metadata, or peft's
    adapter_config.json beside it. Without either it is the rank."""
    by_part: dict[str, dict[str, Any]] = {}
    if naming == "diffusers" and METADATA in content.metadata:
        with _explained(content, METADATA):
            for key, value in json.loads(content.metadata[METADATA]).items():
                part, _, name = key.partition(".")
                by_part.setdefault(part, {})[name] = value
    beside = content.path.with_name("adapter_config.json")
    if naming == "peft":
        if not beside.is_file():
            raise NotFound(
                f"{content.path} has no {beside.name} beside it",
                "peft's weights are scaled by what its configuration says",
                "put it there, or name the folder that holds both",
            )
        with _explained(content, beside.name):
            facts = dict(json.loads(beside.read_text(encoding="utf-8")))
        by_part = dict.fromkeys(PARTS, facts)

    def alpha(place: tuple[str, str], rank: float) -> float:
        facts = by_part.get(place[0]) or {}
        value = float(facts.get("lora_alpha") or rank)
        for pattern, other in (facts.get("alpha_pattern") or {}).items():
            ending = pattern.removeprefix("^").removeprefix(_FULL)
            if re.search(rf"(^|\.){ending}$", place[1]):
                value = float(other)
        return value * rank**0.5 if facts.get("use_rslora") else value

    return alpha


def _full(part: str, module: str) -> str:
    return _FULL + module if part == "text_encoder" else module


def to_diffusers(lora: Lora) -> dict[str, Tensor]:
    """In diffusers' names. alpha is worked into the weights, as older versions do not read it."""
    found = {}
    for (part, module), update in lora.items():
        whole = update.folded()
        found[f"{part}.{_full(part, module)}.lora_A.weight"] = whole.down
        found[f"{part}.{_full(part, module)}.lora_B.weight"] = whole.up
    return found


def to_kohya(lora: Lora) -> dict[str, Tensor]:
    """In kohya's names, with a scalar alpha for each."""
    import torch

    found = {}
    for (part, module), update in lora.items():
        name = _KOHYA[part] + _full(part, module).replace(".", "_")
        found[f"{name}.lora_down.weight"] = update.down
        found[f"{name}.lora_up.weight"] = update.up
        found[f"{name}.alpha"] = torch.tensor(float(update.alpha))
    return found


def kohya_metadata(lora: Lora) -> dict[str, str]:
    """What kohya's trainer writes into its files, as far as other programs look at it."""
    ranks = Counter(update.rank for update in lora.values()).most_common(1)
    alphas = Counter(update.alpha for update in lora.values()).most_common(1)
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks[0][0]),
        "ss_network_alpha": str(alphas[0][0]),
        "ss_base_model_version": "sd_v1",
    }


def write_peft(folder: Path, lora: Lora, metadata: Mapping[str, str], dtype: str) -> list[Path]:
    """One folder for each part, as peft's own loader wants it with the transformers installed here, whose
    names of layers it asks for; returns the files."""
    from peft import LoraConfig

    from birdsd.diffusion.formats.tensors import as_dtype, write_safetensors

    written = []
    for part in PARTS:
        first = _FULL if part == "text_encoder" and _has_text_model() else ""
        updates = {first + module: update for (where, module), update in lora.items() if where == part}
        if not updates:
            continue
        rank = Counter(update.rank for update in updates.values()).most_common(1)[0][0]
        alpha = Counter(update.alpha for update in updates.values()).most_common(1)[0][0]
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=sorted(updates),
            rank_pattern={m: u.rank for m, u in updates.items() if u.rank != rank},
            alpha_pattern={m: u.alpha for m, u in updates.items() if u.alpha != alpha},
            inference_mode=True,
        )
        tensors = {}
        for module, update in updates.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = update.down
            tensors[f"base_model.model.{module}.lora_B.weight"] = update.up
        place = folder / part
        place.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(place))
        written += [place / "adapter_config.json", place / "adapter_model.safetensors"]
        write_safetensors(written[-1], as_dtype(tensors, dtype), metadata)
    return written


def _has_text_model() -> bool:
    """Whether the layers of a CLIPTextModel have `text_model.` first in this version of transformers."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        return hasattr(CLIPTextModel(CLIPTextConfig(num_hidden_layers=1)), "text_model")
