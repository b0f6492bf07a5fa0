"""Aesthetic gradients (Gallego, arXiv 2209.12330): the text encoder is tuned for a moment for each prompt.

An aesthetic embedding e is the mean of what CLIP's image tower makes of some pictures. For a prompt, a copy
of the text encoder takes a few steps of Adam towards e; what the copy then makes of the prompt is the
conditioning. Copied and tuned is the text tower alone, with those rows of its token table that the prompt
uses: the others would get no gradient, and Adam would leave them where they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from birdsd.diffusion.export import read_training
from birdsd.diffusion.generation.words import species_in
from birdsd.errors import BadValue, Damaged, Mismatch, NotFound, NothingLeft, listed_names, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDINGS_FILE, PROJECTION_FILE = "aesthetic.safetensors", "text_projection.safetensors"
PROJECTION = "text_projection"
ALL = "all"  # the embedding of all pictures together
BLENDS = ("lerp", "slerp")
# original: the paper's code. a1111: the extension of AUTOMATIC1111's web UI.
BEHAVIOURS: dict[str, dict[str, Any]] = {
    "original": {"weight": 1.0, "blend": "lerp", "negative": False},
    "a1111": {"weight": 0.9, "blend": "lerp", "negative": True},
}


@dataclass(frozen=True)
class AestheticSettings:
    """How a prompt is personalised.

    `weight`: how much of the tuned conditioning takes the place of the original one (1: all of it), by
    `blend`. `negative`: the negative prompt is tuned as well, even an empty one. `text` turns the embedding
    by `text_weight` (0..1) towards what CLIP makes of that text, or away from it with `text_away`.
    """

    steps: int = 5
    rate: float = 1e-4
    weight: float = 1.0
    blend: str = "lerp"
    negative: bool = False
    text: str = ""
    text_weight: float = 0.1
    text_away: bool = False

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise BadValue(f"aesthetic_steps={self.steps}", "it cannot be negative", "try 5; 0 turns it off")
        if not (math.isfinite(self.rate) and self.rate >= 0):
            raise BadValue(f"aesthetic_rate={self.rate}", "it must be a number >= 0", "the paper's is 1e-4")
        for name in ("weight", "text_weight"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise BadValue(f"aesthetic_{name}={value}", "it is a share, 0..1", "0 changes nothing")
        if self.blend not in BLENDS:
            raise unknown_name("aesthetic_blend", self.blend, BLENDS)

    @classmethod
    def of(cls, behaviour: str = "original", **changes: Any) -> AestheticSettings:
        """The settings of a behaviour (`BEHAVIOURS`) with `changes`; a change of None changes nothing."""
        if behaviour not in BEHAVIOURS:
            raise unknown_name("aesthetic_behaviour", behaviour, BEHAVIOURS)
        given = {name: value for name, value in changes.items() if value is not None}
        return cls(**{**BEHAVIOURS[behaviour], **given})

    @property
    def active(self) -> bool:
        """Whether they change anything at all."""
        return self.steps > 0 and self.rate > 0 and self.weight > 0


@dataclass(frozen=True)
class Aesthetic:
    """An exported folder of aesthetic embeddings: name -> float32 [1, d], not normalised, and CLIP's
    text projection, float32 [d, width]."""

    folder: Path
    embeddings: dict[str, Tensor]
    text_projection: Tensor
    training: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: str | Path) -> Aesthetic:
        """Read a run's export, a run, or an imported folder. fp16 files are read as float32."""
        for place in (Path(folder), Path(folder) / "export"):
            if (place / EMBEDDINGS_FILE).is_file():
                break
        else:
            raise NotFound(
                f"{folder} holds no aesthetic embeddings",
                f"expected {EMBEDDINGS_FILE} and {PROJECTION_FILE} in it, or a run with them in export/",
                "compute them with method=aesthetic_gradients, or `birdsd import` a bare embedding",
            )
        embeddings = {name: _row(value, name, place) for name, value in _read(place / EMBEDDINGS_FILE)}
        projection = dict(_read(place / PROJECTION_FILE)).get(PROJECTION)
        if projection is None or projection.ndim != 2 or not embeddings:
            raise NotFound(
                f"{place / PROJECTION_FILE} holds no matrix named {PROJECTION}",
                "it maps the text encoder's states to the space of the embeddings",
                "compute the embeddings again, or import them again with the CLIP that they come from",
            )
        loaded = cls(place, embeddings, projection, read_training(place))
        for name, value in embeddings.items():
            check_width(value, projection, f"the aesthetic embedding '{name}' of {place}")
        return loaded

    def embedding(self, name: str) -> Tensor:
        """float32 [1, d]: the embedding of a name, in any case."""
        for known, value in self.embeddings.items():
            if known.casefold() == name.casefold():
                return value
        raise unknown_name("aesthetic embedding", name, self.embeddings, whole=f"those of {self.folder}")

    def name_for(self, prompt: str) -> str:
        """The first species in the prompt that has an embedding; else that of all pictures, or the only one
        there is."""
        found = species_in(prompt, [name for name in self.embeddings if name != ALL])
        if found:
            return found[0]
        if ALL in self.embeddings or len(self.embeddings) == 1:
            return ALL if ALL in self.embeddings else next(iter(self.embeddings))
        raise NothingLeft(
            f"the prompt '{prompt}' names none of the aesthetic embeddings in {self.folder}",
            f"there are {listed_names(sorted(self.embeddings))}",
            "name one with aesthetic_name=NAME",
        )


def _read(path: Path) -> list[tuple[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        return [(name, value.float()) for name, value in load_file(path).items()]
    except Exception as error:  # OSError, SafetensorError, ...
        raise Damaged(
            f"{path} cannot be read: {error}", "expected a safetensors file", "export or import it again"
        ) from error


def _row(value: Tensor, name: str, folder: Path) -> Tensor:
    row = value.reshape(1, -1)
    if value.ndim > 2 or (value.ndim == 2 and value.shape[0] != 1) or not row.isfinite().all():
        raise Damaged(
            f"the aesthetic embedding '{name}' of {folder} has the shape {list(value.shape)}",
            "it is one row of finite numbers, [1, d]",
            "compute it again",
        )
    return row


def check_width(embedding: Tensor, projection: Tensor, what: str, text_width: int | None = None) -> None:
    """Refuse an embedding or a text encoder that the projection [d, width] does not fit."""
    made, width = projection.shape
    if embedding.shape[-1] != made:
        raise Mismatch(
            f"{what} is {embedding.shape[-1]} wide",
            f"the text projection beside it makes features that are {made} wide",
            "both must come from one CLIP: name that one",
        )
    if text_width is not None and text_width != width:
        raise Mismatch(
            f"{what} belongs to a CLIP whose text encoder is {width} wide",
            f"this model's text encoder is {text_width} wide",
            "compute the embedding with the CLIP of this text encoder (method=clip makes one)",
        )


def personalise(
    text_encoder: Any,
    tokenizer: Any,
    text_projection: Tensor,
    embedding: Tensor,
    prompts: Sequence[str],
    settings: AestheticSettings,
) -> Tensor:
    """[B, n, width] in the encoder's dtype: the conditioning of each prompt, tuned towards `embedding`.

    `embedding` is [1, d], or [B, d] with one for each prompt; `text_projection` [d, width]. Each prompt
    starts from the encoder as it is given, which is left unchanged to the bit; equal prompts are tuned
    once. An empty prompt is tuned only with `settings.negative`.
    """
    import torch

    width = text_encoder.get_input_embeddings().weight.shape[1]
    check_width(embedding, text_projection, "the aesthetic embedding", width)
    made: dict[tuple[str, bytes], Tensor] = {}
    wanted = []
    for prompt, row in zip(prompts, embedding.expand(len(prompts), -1), strict=True):
        wanted.append((prompt, row.detach().float().cpu().numpy().tobytes()))
        if wanted[-1] not in made:
            tune = Personalisation(text_encoder, tokenizer, text_projection, row[None], settings)
            made[wanted[-1]] = tune(prompt)
    return torch.cat([made[key] for key in wanted])


class Personalisation:
    """One embedding and what tunes an encoder towards it. `similarities` are the cosines of the last prompt
    before each step."""

    def __init__(
        self,
        text_encoder: Any,
        tokenizer: Any,
        text_projection: Tensor,
        embedding: Tensor,
        settings: AestheticSettings,
    ) -> None:
        self.encoder, self.tokenizer, self.settings = text_encoder, tokenizer, settings
        self.table = text_encoder.get_input_embeddings().weight
        self.projection = text_projection.detach().to(self.table.device).float()
        self.similarities: list[float] = []
        self.target = self._turned(_unit(embedding.detach().to(self.table.device).float()))

    def __call__(self, prompt: str) -> Tensor:
        """[1, n, width] for one prompt."""
        settings = self.settings
        original = self._original(prompt)
        if not settings.active or not (prompt.strip() or settings.negative):
            return original
        tuned = self.tuned(prompt).to(original.dtype)
        if settings.weight == 1:
            return tuned
        blend = slerp if settings.blend == "slerp" else lerp
        return blend(original, tuned, settings.weight)

    def tuned(self, prompt: str) -> Tensor:
        """float32 [1, n, width]: what the tuned copy makes of the prompt."""
        import torch

        from birdsd.diffusion.networks.models import evaluating

        self.similarities = []
        full = torch.autocast(self.table.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), evaluating(self.encoder), full:
            return self._tune(prompt)

    def _tune(self, prompt: str) -> Tensor:
        import torch

        from birdsd.diffusion.networks.tokenizer import token_ids

        ids = token_ids(self.tokenizer, [prompt]).to(self.table.device)
        rows, numbers = ids.unique(return_inverse=True)
        weights = self.copied(rows)
        target, projection = self.target.clone(), self.projection.clone()  # made in inference mode, perhaps
        learning = [value for value in weights.values() if value.requires_grad]
        # foreach would hold temporary copies of all the weights at once.
        optimizer = torch.optim.Adam(learning, lr=self.settings.rate, foreach=False)
        for _ in range(self.settings.steps):
            features = _unit(self.states(weights, numbers)[:, self._end(ids)] @ projection.T)
            loss = -(features * target).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.similarities.append(-loss.item())
        with torch.no_grad():
            return self.states(weights, numbers)

    def copied(self, rows: Tensor) -> dict[str, Tensor]:
        """The text tower's weights as float32 leaves of their own, of the token table the given rows.

        The factors of a LoRA stay as they are: to tune the weights beneath them is to tune the sum.
        """
        copies = {}
        for name, parameter in self.encoder.named_parameters():
            value = parameter.detach()
            value = value[rows] if parameter is self.table else value.clone()
            copies[name] = value.float().requires_grad_("lora_" not in name)
        return copies

    def states(self, weights: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        """[1, n, width]: last hidden states, from other weights than the encoder's own."""
        from torch.func import functional_call

        states: Tensor = functional_call(self.encoder, dict(weights), (ids,))[0]
        return states

    def _end(self, ids: Tensor) -> int:
        """Where the text ends. The encoder's own pooling takes the highest number, which since a token was
        added is no longer the end."""
        return int((ids[0] == self.tokenizer.eos_token_id).int().argmax())

    def _original(self, text: str) -> Tensor:
        """[1, n, width]: what the encoder itself makes of a text."""
        from birdsd.diffusion.generation.sampling import encode_texts
        from birdsd.diffusion.networks.models import evaluating

        with evaluating(self.encoder):
            return encode_texts(self.encoder, self.tokenizer, [text])

    def _turned(self, unit: Tensor) -> Tensor:
        """The embedding [1, d], turned by the aesthetic text as the web UI's extension does it: the text's
        features keep their length, unless the embedding is to lead away from them."""
        import torch

        from birdsd.diffusion.networks.tokenizer import token_ids

        settings = self.settings
        if not settings.text.strip():
            return unit
        ids = token_ids(self.tokenizer, [settings.text])
        with torch.no_grad():
            features = self._original(settings.text).float()[:, self._end(ids)] @ self.projection.T
            if settings.text_away:
                features = _unit(unit - features)
            return slerp(unit, features, settings.text_weight)


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def lerp(low: Tensor, high: Tensor, share: float) -> Tensor:
    """The straight way from `low` to `high`."""
    return low * (1 - share) + high * share


def slerp(low: Tensor, high: Tensor, share: float) -> Tensor:
    """From `low` to `high` along the arc, by the angle between them along dimension 1.

    As in the web UI's extension: of features [1, d] that is the angle between two vectors; of states
    [1, n, width] it is an angle for each channel, over the tokens. Where there is no angle: the straight way.
    """
    import torch

    cosine = (low / low.norm(dim=1, keepdim=True) * (high / high.norm(dim=1, keepdim=True))).sum(
        1, keepdim=True
    )
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    bent = (((1 - share) * angle).sin() / sine) * low + ((share * angle).sin() / sine) * high
    return torch.where(sine > 1e-6, bent, lerp(low, high, share))
