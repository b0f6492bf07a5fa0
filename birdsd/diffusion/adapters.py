"""Small things that stand on a base model: LoRA, learnt tokens, aesthetic embeddings.

An adapter's folder holds its weights (safetensors), and beside them codec.json, training.json with its
`kind`, the `base` that it was made for and the `words` it taught, the rights and a card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from birdsd.diffusion import export
from birdsd.diffusion.networks.finite import check_finite
from birdsd.errors import AlreadyThere, BadValue, Damaged, Mismatch, NotFound
from birdsd.files import fingerprint, safe_name
from birdsd.method_facts import adapter_kinds

LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Adapter:
    """One adapter in its folder, and how strongly it counts."""

    folder: Path
    training: dict[str, Any]
    weight: float = 1.0

    @classmethod
    def open(cls, folder: Path | str, weight: float = 1.0) -> Adapter:
        """The adapter that `folder`, or its export/, holds; `UserError` where it holds none."""
        found = adapter_folder(folder)
        if found is None:
            raise BadValue(
                f"{folder} is not a LoRA, token or aesthetic embedding",
                f"expected a folder whose training.json says one of {', '.join(adapter_kinds())}, "
                "or a run with one",
                "`birdsd import FILE` turns files from elsewhere into such a folder",
            )
        return cls(found, export.read_training(found), weight)

    @property
    def kind(self) -> str:
        return str(self.training["kind"])

    @property
    def words(self) -> dict[str, str]:
        return dict(self.training.get("words") or {})

    @property
    def tokens(self) -> dict[str, int]:
        """Learnt tokens and the number of their vectors."""
        return {str(token): int(vectors) for token, vectors in (self.training.get("tokens") or {}).items()}

    @property
    def base_source(self) -> str:
        return str((self.training.get("base") or {}).get("source") or "")

    @property
    def identity(self) -> str:
        """A fingerprint of its weights."""
        return str(self.training.get("weights") or export.weights_fingerprint(self.folder))


def adapter_folder(folder: Path | str) -> Path | None:
    """Where the adapter lies that `folder` is or holds in export/; None where there is none."""
    for candidate in (Path(folder).expanduser(), Path(folder).expanduser() / "export"):
        if export.read_training(candidate).get("kind") in adapter_kinds():
            return candidate
    return None


def chain(folder: Path | str, base: str | None = None) -> tuple[str, list[Adapter]]:
    """(the model underneath, the adapters on it from the lowest up): an aesthetic embedding may stand on a
    LoRA, which stands on a model. `base` names the model where it has moved.
    """
    found: list[Adapter] = []
    place = str(folder)
    while adapter_folder(place) is not None:
        adapter = Adapter.open(place)
        if any(one.folder == adapter.folder for one in found):
            raise Mismatch(f"{folder} is its own base model", "an adapter needs a base model")
        found.insert(0, adapter)
        place = adapter.base_source
    if not found:
        return place, []
    lowest = found[0]
    if base is not None:
        return base, found
    if not place or (is_path(place) and not Path(place).exists()):
        raise NotFound(
            f"the base model of {lowest.folder} is not at {place or '(nothing is said)'}",
            f"a {lowest.kind} is only an adapter for the model that it was made for",
            "name the model with base=FOLDER, or run `birdsd export RUN --format diffusers` where both are",
        )
    _check_base(lowest, place)
    return place, found


def is_path(source: str) -> bool:
    """Whether a source is a place in the file system, rather than a hub id like someone/model."""
    return source.startswith((".", "/", "~")) or source.count("/") != 1 or Path(source).exists()


def _check_base(adapter: Adapter, source: str) -> None:
    known = str((adapter.training.get("base") or {}).get("identity") or "")
    if known and known != (now := source_identity(source)):
        raise Mismatch(
            f"the model {source} is not the one that {adapter.folder} was made for",
            f"its weights have the fingerprint {now}, not {known}",
            f"name the right one with base=FOLDER, or say base={source} to use this one anyway",
        )


def source_identity(source: str) -> str:
    """A fingerprint of what a model source holds; a hub id stands for itself."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return source
    folder = folder / "export" if (folder / "export").is_dir() else folder
    return str(export.read_training(folder).get("weights") or export.weights_fingerprint(folder))


def combined_identity(base: str, adapters: Sequence[Adapter]) -> str:
    """The fingerprint of a model with what stands on it; that of the model alone where nothing does."""
    if not adapters:
        return base
    return fingerprint([base, *([one.identity, one.weight] for one in adapters)])


def apply(pipeline: Any, adapters: Sequence[Adapter]) -> list[Adapter]:
    """Put LoRA and tokens into a loaded pipeline; returns the aesthetic embeddings, which act on prompts."""
    names: list[str] = []
    for number, adapter in enumerate(adapters):
        if adapter.kind == "lora":
            names.append(f"adapter{number}")
            _add_lora(pipeline, adapter, names[-1])
        elif adapter.kind == "embedding":
            _add_tokens(pipeline, adapter)
    if names:
        weights = [one.weight for one in adapters if one.kind == "lora"]
        pipeline.set_adapters(names, weights)
    return [one for one in adapters if one.kind == "aesthetic"]


def expanded(text: str, adapters: Sequence[Adapter]) -> str:
    """`text` with each learnt token followed by its further vectors, weighted as its adapter is."""
    from birdsd.diffusion.networks.token_vectors import expand_tokens

    for adapter in adapters:
        if adapter.tokens:
            text = expand_tokens(text, adapter.tokens)
    return text


def _add_lora(pipeline: Any, adapter: Adapter, name: str) -> None:
    file = adapter.folder / LORA_FILE
    if not file.is_file():
        raise NotFound(f"{adapter.folder} has no {LORA_FILE}", "a LoRA's weights lie in that file")
    weights = _stored(file)
    check_lora(pipeline, {key: tuple(tensor.shape) for key, tensor in weights.items()}, str(adapter.folder))
    try:
        pipeline.load_lora_weights(str(adapter.folder), weight_name=LORA_FILE, adapter_name=name)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Mismatch(
            f"cannot load the LoRA in {adapter.folder}: {reason}", "it must fit its base model"
        ) from error


def factor_shapes(weight: Sequence[int], rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of the two factors (down, up) of the update of a layer, by the shape of its weight."""
    return (rank, *weight[1:]), (weight[0], rank, *[1] * (len(weight) - 2))


def check_lora(pipeline: Any, shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Refuse a LoRA (its tensors' shapes, in diffusers' names) that does not fit this model: layers that it
    does not have, other widths or kernels, factors of two ranks."""
    modules = {
        f"{part}.{name}": module
        for part in ("unet", "text_encoder")
        for name, module in getattr(pipeline, part).named_modules()
    }
    rule = "a LoRA fits models of the architecture that it was made for only"
    way_out = "name the model that it was made for, or import the LoRA's file again with `birdsd import`"
    ranks: dict[str, int] = {}
    for key, shape in shapes.items():
        layer, _, kind = key.partition(".lora")
        module = modules.get(layer) or modules.get(layer.replace("text_encoder.text_model.", "text_encoder."))
        weight = getattr(module, "weight", None)
        if weight is None:
            raise Mismatch(f"{source} updates {layer}, which this model does not have", rule, way_out)
        is_down = kind.startswith(("_A", ".down", "_down"))
        rank = (shape[0] if is_down else shape[1]) if len(shape) > 1 else 0
        if tuple(shape) != factor_shapes(weight.shape, rank)[0 if is_down else 1]:
            what = f"{source}: {key} is {list(shape)}, the layer's weight is {list(weight.shape)}"
            raise Mismatch(what, rule, way_out)
        if ranks.setdefault(layer, rank) != rank:
            what = f"{source}: the factors of {layer} are of the ranks {ranks[layer]} and {rank}"
            raise Mismatch(what, "up @ down needs one rank", way_out)


def _stored(file: Path) -> dict[str, Any]:
    """The tensors of an adapter's file, all finite."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(str(file))
    except (SafetensorError, OSError, ValueError) as error:
        raise Damaged(f"{file} cannot be read: {error}", "", "export or import the adapter again") from error
    check_finite(weights, file)
    return dict(weights)


def _add_tokens(pipeline: Any, adapter: Adapter) -> None:
    for token in adapter.tokens:
        file = adapter.folder / "embeddings" / f"{safe_name(token)}.safetensors"
        if not file.is_file():
            raise NotFound(f"{adapter.folder} has no embeddings/{file.name}", f"it should contain {token}")
        known = pipeline.tokenizer.get_vocab()
        if token in known:
            raise AlreadyThere(
                f"the token {token} of {adapter.folder} exists in this model already",
                "each token has one meaning",
                "leave out one of the two adapters",
            )
        vectors = _stored(file).get(token)
        if vectors is None:
            raise NotFound(f"{file} does not hold {token}", "each token has a file", "import it again")
        width = pipeline.text_encoder.get_input_embeddings().weight.shape[1]
        if vectors.shape[-1] != width:
            raise Mismatch(
                f"the token {token} of {adapter.folder} is {vectors.shape[-1]} wide",
                f"the text encoder of this model is {width} wide",
                "name the model that it was made for",
            )
        pipeline.load_textual_inversion({token: vectors}, token=token)


def write_adapter(
    folder: Path,
    kind: str,
    write: Callable[[Path], None],
    *,
    codec: Mapping[str, Any],
    heard: export.TrainingSet,
    about: Mapping[str, Any],
    base: str,
    words: Mapping[str, str] | None = None,
) -> Path:
    """Let `write` put the weights into the folder, and add what every adapter has; all or nothing."""
    path = Path(base).expanduser()
    source = str(path.resolve()) if path.exists() else base
    facts = {
        **about,
        "kind": kind,
        "base": {"source": source, "identity": source_identity(base) if base else ""},
        "words": dict(words or {}),
    }

    def fill(partial: Path) -> None:
        write(partial)
        export.write_companions(partial, codec, heard, facts)

    return export.write_folder(folder, fill)
