"""A file that another program wrote, as a folder that birdsd generates with.

What a file is, its keys tell: a checkpoint, a LoRA, an embedding, an aesthetic embedding. The folder is
that of an export: a pipeline, or an adapter that names the model under it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from birdsd.diffusion import adapters, export
from birdsd.diffusion.formats import embeddings, ldm, loras, single_file
from birdsd.diffusion.formats.companions import CODEC, TRAINING, heard_in
from birdsd.diffusion.formats.tensors import Content, read_content
from birdsd.diffusion.networks import models
from birdsd.diffusion.networks.finite import check_finite
from birdsd.errors import AlreadyThere, BadValue, Mismatch, NotFound, NotSet, Unsupported, UserError
from birdsd.files import fingerprint, read_json, safe_name, sha256_file

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """A file or folder, and what else is needed to make sense of it; `base` and `clip` are folders or hub
    ids, `codec` a codec.json or a folder with one, `token` another name for a token."""

    path: Path
    base: str | None = None
    codec: str | None = None
    clip: str | None = None
    token: str | None = None

    @property
    def stem(self) -> str:
        return self.path.name if self.path.is_dir() else self.path.stem


@dataclass(frozen=True)
class Imported:
    """What was made of a file; `made` is false where the folder held it already. `also`: what else the file
    held, each in a folder of its own beside this one."""

    folder: Path
    kind: str
    form: str
    facts: dict[str, Any] = field(default_factory=dict)
    made: bool = True
    also: tuple[Imported, ...] = ()


def import_file(asked: Asked, out: Path) -> Imported:
    """Make the folder `out` of a file. A folder that holds the same file's import already is left."""
    identity = _identity(asked)
    before = _made_before(out, identity)
    if asked.path.is_dir():
        if before is not None:
            return before
        return _import_folder(asked, out, identity)
    content, bundle = loras.unbundled(read_content(asked.path))
    if bundle:
        return _import_bundle(asked, out, identity, content, bundle)
    if before is not None:
        return before
    _refuse_foreign(content)
    if any(name.startswith(tuple(ldm.PREFIXES.values())) for name in content.tensors):
        return _Import(asked, out, identity, "single file").checkpoint(content)
    if loras.is_lora(content.tensors):
        return _Import(asked, out, identity, "lora").lora([content])
    if (bare := embeddings.read_aesthetic(content)) is not None:
        return _Import(asked, out, identity, "bare tensor").aesthetic(bare)
    if (tokens := embeddings.read_tokens(content)) is not None:
        return _Import(asked, out, identity, "embedding").tokens(tokens)
    names = ", ".join(sorted(content.tensors)[:3]) or "(nothing)"
    raise Unsupported(
        f"{asked.path} holds {names}",
        "known are checkpoints of Stable Diffusion 1, LoRA, textual inversion and aesthetic embeddings",
        "name another file",
    )


def _made_before(out: Path, identity: str) -> Imported | None:
    """The import that the folder holds already; `UserError` where it holds anything else."""
    if not out.exists():
        return None
    training = export.read_training(out)
    if (training.get("imported") or {}).get("identity") == identity:
        return Imported(out, str(training["kind"]), str(training["imported"]["form"]), made=False)
    if not out.is_dir() or any(out.iterdir()):
        raise AlreadyThere(f"{out} already exists", "an import creates a new folder", "choose another --out")
    return None


def _import_bundle(
    asked: Asked, out: Path, identity: str, content: Content, bundle: Mapping[str, Tensor]
) -> Imported:
    """A LoRA whose file holds the tokens that were taught with it: the LoRA in `out`, and each token in a
    folder beside it, as one can do without the other. All of them, or none."""
    if not loras.is_lora(content.tensors):
        raise Unsupported(f"{asked.path} bundles embeddings with no LoRA", "", "fetch the file again")
    if asked.token and len(bundle) > 1:
        raise Mismatch(f"--token {asked.token} for {len(bundle)} tokens", "it names one", "leave it out")
    also: list[Imported] = []
    try:
        for token, vectors in bundle.items():
            named = asked.token or token
            place = out.with_name(f"{out.name}-{safe_name(named)}")
            mark = fingerprint([identity, token])
            rows = embeddings.rows_of(vectors, content, token)
            made = _made_before(place, mark)
            also.append(made or _Import(asked, place, mark, "embedding beside a LoRA").tokens({token: rows}))
        lora = _made_before(out, identity) or _Import(asked, out, identity, "lora").lora([content])
    except BaseException:
        for one in also:
            if one.made:
                shutil.rmtree(one.folder, ignore_errors=True)
        raise
    return replace(lora, made=lora.made or any(one.made for one in also), also=tuple(also))


_FOREIGN = {
    "conditioner.embedders.": "a checkpoint of SDXL",
    "cond_stage_model.model.": "a checkpoint of Stable Diffusion 2",
    "model.diffusion_model.double_blocks.": "a checkpoint of Flux",
    "model.diffusion_model.joint_blocks.": "a checkpoint of Stable Diffusion 3",
    "control_model.": "a ControlNet",
    "encoder.conv_in.": "an autoencoder alone",
}


def _refuse_foreign(content: Content) -> None:
    for prefix, what in _FOREIGN.items():
        if any(name.startswith(prefix) for name in content.tensors):
            raise Unsupported(
                f"{content.path} is {what}",
                "checkpoints of Stable Diffusion 1 are read",
                "convert it to a diffusers folder with its own tools, or find another file",
            )


def _identity(asked: Asked) -> str:
    """What decides an import: the file, what lies beside it, and what was asked for."""
    path = asked.path
    if not path.exists():
        return ""
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.suffix in (".safetensors", ".json")]
    else:
        beside = (CODEC, TRAINING, ".yaml", ".recordings.csv")
        files = [path, *(path.with_name(path.stem + suffix) for suffix in beside)]
    sums = [sha256_file(one) for one in files if one.is_file()]
    return fingerprint([sums, asked.base, asked.codec, asked.clip, asked.token])


def _import_folder(asked: Asked, out: Path, identity: str) -> Imported:
    """A diffusers pipeline, or peft's adapters."""
    path = asked.path
    if (path / "model_index.json").is_file():
        return _Import(asked, out, identity, "diffusers").pipeline(path)
    places = [place for place in (path, *(path / part for part in loras.PARTS)) if _is_peft(place)]
    if places:
        contents = [read_content(place / "adapter_model.safetensors") for place in places]
        return _Import(asked, out, identity, "lora").lora(contents)
    files = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".ckpt", ".pt", ".bin"))
    raise BadValue(
        f"{path} is a folder",
        "expected a file, a diffusers pipeline folder (model_index.json) or a peft folder "
        "(adapter_config.json)",
        f"name one of its files: {', '.join(files[:5])}" if files else "name the file of the weights",
    )


def _is_peft(place: Path) -> bool:
    return (place / "adapter_config.json").is_file() and (place / "adapter_model.safetensors").is_file()


class _Import:
    """One import: the companions of the file, and a method for each kind."""

    def __init__(self, asked: Asked, out: Path, identity: str, form: str) -> None:
        self.asked, self.out, self.identity, self.form = asked, out, identity, form
        self.beside = asked.path if asked.path.is_dir() else asked.path.parent
        training = self.beside / f"{asked.stem}{TRAINING}"
        own = asked.path / "training.json"
        self.told: dict[str, Any] = {}
        for place in (training, own):
            if place.is_file():
                self.told = dict(read_json(place, "the training beside the file"))
        is_own = own.is_file() and asked.path.is_dir()
        self.heard = heard_in(self.beside, "" if is_own else asked.stem)

    def _about(self, **facts: Any) -> dict[str, Any]:
        kept = (
            "method", "prediction", "noise_schedule", "zero_terminal_snr", "resolution", "rank", "alpha",
            "sampling",
        )  # fmt: skip
        known = {key: self.told[key] for key in kept if key in self.told}
        origin = {"file": self.asked.path.name, "identity": self.identity, "form": self.form}
        return {**known, **facts, "imported": origin}

    def _codec(self, content: Content | None, base: str | None) -> dict[str, Any]:
        """From --codec, beside the file, in its header, or of the base."""
        stem, beside = self.asked.stem, self.beside
        if self.asked.codec:
            return _codec_at(Path(self.asked.codec).expanduser())
        for place in (beside / f"{stem}{CODEC}", beside / "codec.json"):
            if place.is_file():
                return dict(read_json(place, "codec"))
        if content is not None and "codec" in content.metadata:
            with suppress(ValueError, TypeError):  # another program may mean something else by that word
                return dict(json.loads(content.metadata["codec"]))
        if base and Path(base).is_dir():
            for place in (Path(base) / "export", Path(base)):
                if (place / "codec.json").is_file():
                    return export.read_codec(place)
        raise NotSet(
            f"{self.asked.path} does not name a codec",
            "without one its images cannot be turned into sound",
            "name the codec.json that belongs to it, or a run or folder with the same codec: --codec FILE",
        )

    def _base(self, what: str) -> str:
        """The model under an adapter: --base, or the one that the file's companion names."""
        if self.asked.base:
            return self.asked.base
        companion_base = self.told.get("base") or {}
        source, identity = str(companion_base.get("source") or ""), str(companion_base.get("identity") or "")
        if source and Path(source).exists():
            if identity in ("", now := adapters.source_identity(source)):
                return source
            raise Mismatch(
                f"the model {source} is not the one that {self.asked.path} was made for",
                f"its weights have the fingerprint {now}, not {identity}",
                f"name the right one with --base, or say --base {source} to use this one anyway",
            )
        raise NotSet(
            f"{self.asked.path} is {what}, and needs a base model",
            "it only contains what it changes",
            "name the model that it was made for: --base RUN, a diffusers folder or a hub id",
        )

    # -- whole models

    def checkpoint(self, content: Content) -> Imported:
        settings = self.beside / f"{content.stem}{single_file.SETTINGS}"
        source = self.asked.base or (str(settings) if settings.is_dir() else "")
        if not source:
            raise NotSet(
                f"{content.path} contains only weights",
                "the settings of the networks and the tokenizer must come from elsewhere",
                "name a model of the same architecture: --base RUN, a diffusers folder, or for Stable "
                "Diffusion 1.5 the hub id stable-diffusion-v1-5/stable-diffusion-v1-5",
            )
        codec = self._codec(content, None)
        return self._write_pipeline(single_file.read_single_file(content, source), codec)

    def pipeline(self, folder: Path) -> Imported:
        text, tokenizer = models.load_text(str(folder))
        parts = {
            "unet": models.load_unet(str(folder)),
            "vae": models.load_vae(str(folder)),
            "text_encoder": text,
            "tokenizer": tokenizer,
            "scheduler": models.scheduler_config(str(folder)),
        }
        return self._write_pipeline(parts, self._codec(None, None))

    def _write_pipeline(self, parts: Mapping[str, Any], codec: Mapping[str, Any]) -> Imported:
        _check_size(parts["vae"], codec)
        words = {key: self.told[key] for key in ("words", "tokens") if self.told.get(key)}
        about = self._about(**words)
        export.write_pipeline(self.out, codec=codec, heard=self.heard, about=about, **parts)
        return Imported(self.out, "pipeline", self.form)

    # -- adapters

    def lora(self, contents: list[Content]) -> Imported:
        from birdsd.diffusion.formats.tensors import as_dtype, write_safetensors

        base = self._base("a LoRA")
        networks = single_file.empty_networks(base)
        layers = {part: single_file.layer_shapes(networks[part]) for part in loras.PARTS}
        lora: loras.Lora = {}
        naming = ""
        for content in contents:
            naming, found = loras.read_lora(content, layers)
            lora |= loras.fitted(found, layers, content)
        tensors = as_dtype(loras.to_diffusers(lora), "fp32")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        adapters.check_lora(SimpleNamespace(**networks), shapes, str(self.asked.path))
        self.form = f"{naming} lora"
        return self._write_adapter(
            "lora",
            lambda partial: write_safetensors(partial / adapters.LORA_FILE, tensors, {}),
            self._codec(contents[0], base),
            base,
        )

    def tokens(self, tokens: Mapping[str, Tensor]) -> Imported:
        from birdsd.diffusion.networks.token_vectors import add_tokens, write_embeddings

        base = self._base("an embedding")
        named = self._named(tokens)
        width = int(single_file.text_config(base).hidden_size)
        for token, rows in named.items():
            if rows.shape[1] != width:
                raise Mismatch(
                    f"{self.asked.path}: the token {token} is {rows.shape[1]} wide",
                    f"the text encoder of {base} is {width} wide",
                    "name the model that it was made for with --base",
                )
        sizes = {token: int(rows.shape[0]) for token, rows in named.items()}
        try:
            add_tokens(single_file.load_tokenizer(base), sizes)
        except UserError as error:
            way = "give it another name with --token WORD, in angle brackets for instance: <my-bird>"
            raise type(error)(f"{self.asked.path}: {error.problem}", error.expected, way) from error

        def write(partial: Path) -> None:
            write_embeddings(partial, named)

        return self._write_adapter("embedding", write, self._codec(None, base), base, tokens=sizes)

    def _named(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tokens under the names that they get: --token, or what the companion says the file's name
        stands for (`<black-phoebe>` is no file name everywhere)."""
        if self.asked.token:
            if len(tokens) > 1:
                raise Mismatch(
                    f"--token {self.asked.token} for {len(tokens)} tokens",
                    "it names one",
                    "leave it out, or import a file with one token",
                )
            return {self.asked.token: next(iter(tokens.values()))}
        known = {safe_name(token): token for token in self.told.get("tokens") or {}}
        return {known.get(name, name): rows for name, rows in tokens.items()}

    def aesthetic(self, vector: Tensor) -> Imported:
        from birdsd.diffusion.formats.tensors import write_safetensors
        from birdsd.diffusion.generation.aesthetics import (
            EMBEDDINGS_FILE,
            PROJECTION,
            PROJECTION_FILE,
            check_width,
        )

        base = self.asked.base or str((self.told.get("base") or {}).get("source") or "")
        projection = self._projection(PROJECTION)
        width = int(single_file.text_config(base).hidden_size) if self.asked.base else None
        check_width(vector, projection, f"the aesthetic embedding {self.asked.path}", width)
        name = str(self.told.get("aesthetic") or self.asked.stem)

        def write(partial: Path) -> None:
            write_safetensors(partial / EMBEDDINGS_FILE, {name: vector.contiguous()}, {})
            write_safetensors(partial / PROJECTION_FILE, {PROJECTION: projection}, {})

        return self._write_adapter("aesthetic", write, self._codec(None, base), base)

    def _projection(self, name: str) -> Tensor:
        beside = self.beside / f"{self.asked.stem}.{name}.safetensors"
        if self.asked.clip is None and beside.is_file():
            matrix = read_content(beside).tensors[name]
            check_finite({name: matrix}, beside)
            return matrix.float()
        if self.asked.clip is None:
            raise NotSet(
                f"{self.asked.path} is an aesthetic embedding, and needs the CLIP that it was computed with",
                "its text projection leads from the text encoder's states to the space of the embedding",
                "name it: --clip RUN, a CLIPModel folder, or openai/clip-vit-large-patch14 for Stable "
                "Diffusion 1.5",
            )
        from birdsd.diffusion.networks.clip import load_clip

        return load_clip(self.asked.clip).text_projection.detach().float().contiguous()

    def _write_adapter(
        self, kind: str, write: Any, codec: Mapping[str, Any], base: str, **facts: Any
    ) -> Imported:
        adapters.write_adapter(
            self.out,
            kind,
            write,
            codec=codec,
            heard=self.heard,
            about=self._about(**facts),
            base=base,
            words=self.told.get("words") or {},
        )
        return Imported(self.out, kind, self.form)


def _codec_at(place: Path) -> dict[str, Any]:
    for path in (place, place / "codec.json", place / "export" / "codec.json"):
        if path.is_file():
            return dict(read_json(path, "codec"))
    raise NotFound(
        f"--codec {place} holds no codec.json", "name such a file, or a run or folder with one", ""
    )


def _check_size(vae: Any, codec: Mapping[str, Any]) -> None:
    """The codec must be one, and its pictures must divide by the autoencoder's steps."""
    from birdsd.sound.codec.protocol import Codec

    read = Codec.from_json(dict(codec))
    models.latent_size(vae.config, read.bands, read.frames)
