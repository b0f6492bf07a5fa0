"""What can be configured: one typed dataclass per group, one per job.

The presets under configs/ fill these in. A field's unit is in its name. `SCIENTIFIC` says which
sections determine what is learnt; everything else only determines how and where the work is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Optional

from birdsd.schema.evaluation import QualityConfig as QualityConfig
from birdsd.schema.evaluation import SimToRealConfig as SimToRealConfig
from birdsd.schema.machine import MISSING as MISSING
from birdsd.schema.machine import MachineConfig as MachineConfig
from birdsd.schema.machine import SiteConfig as SiteConfig
from birdsd.schema.machine import SubmitConfig as SubmitConfig
from birdsd.schema.machine import Text as Text
from birdsd.schema.separation import SeparateConfig as SeparateConfig
from birdsd.schema.space import BearingsConfig as BearingsConfig
from birdsd.schema.space import SpaceConfig as SpaceConfig

SPECTROGRAM = "spectrogram"  # the kind of codec that CodecConfig is for


@dataclass
class CodecConfig:
    """Waveform <-> image: the one declaration of the fields of `birdsd.sound.codec.Codec`. Another
    kind of codec has the fields of its class."""

    name: str = MISSING
    rate_hz: int = 32000  # sample rate
    window_ms: float = 16.0  # length of the analysis window
    hop_ms: float = 4.0  # from one frame to the next
    n_fft: int = 512  # 0: the next suitable size
    scale: str = "linear"  # or log, mel: how the bands are spaced
    bands: int = 256  # the image's height
    fmin_hz: float = 62.5  # of the lowest band
    fmax_hz: float = 16000.0  # of the highest band
    frames: int = 512  # the image's width
    channels: int = 1  # of sound and of the image
    intensity: str = "decibel"  # or log1p, power: how level becomes brightness
    floor_db: float = -100.0  # black; not for intensity=power
    ceiling_db: float = 0.0  # white; not for intensity=power
    exponent: float = 0.25  # of intensity=power
    mel_formula: str = "htk"  # or slaney; for scale=mel
    mel_norm: Text = None  # or slaney; for scale=mel
    phase: str = "pghi"  # or random: where its estimation begins; kept: stored beside the level
    griffin_lim_iterations: int = 32  # to estimate the phase
    momentum: float = 0.95  # of Griffin-Lim


@dataclass
class DataConfig:
    """Where recordings, labels and shards are, and how recordings become samples."""

    name: str = MISSING
    recordings: Text = None  # a folder of recordings
    labels: Text = None  # label files, if they are elsewhere
    environment: Text = None  # a folder of environmental sound to mix in
    shards: Text = None  # the folder of shards
    segmentation: str = "song"  # or windows, whole: how recordings are cut
    overlap: float = 0.0  # of neighbouring windows (segmentation=windows), from 0 to below 1
    max_clips_per_recording: int = 5  # 0: all
    cuts_per_song: int = 1  # clips per song: the first centred on it, others with the song elsewhere
    cut_gain_db: float = 0.0  # further cuts: up to this much louder or softer, within the species' range
    background_mixtures: int = 0  # per clip, with the background between the songs of other recordings
    min_label_overlap_s: float = 0.25  # of a label, or the whole label, must lie in a clip to count
    snr_db_low: float = 3.0  # of mixtures, drawn between this and snr_db_high
    snr_db_high: float = 20.0  # see snr_db_low
    mixtures_per_clip: int = 0  # mixtures of each clip with environmental sound
    keep_clean: bool = True  # keep the unmixed clip beside its mixtures
    wordings: int = 4  # captions per clip
    validation_fraction: float = 0.1  # of the recordings
    test_fraction: float = 0.1  # of the recordings
    samples_per_shard: int = 512  # samples in one tar
    species: list[str] = field(default_factory=list)  # only recordings of these; empty: all
    without_species: list[str] = field(default_factory=list)  # no recordings labelled with any of these
    clean: str = "off"  # or gate, nmf: noise of the recording itself taken off its clips
    clean_db: float = 12.0  # by so much at most
    seed: int = 0  # of splits, cuts, mixtures and captions


@dataclass
class ModelConfig:
    """The networks. `recommended` holds settings by method for this size of model."""

    name: str = MISSING
    init: str = "scratch"  # or pretrained
    source: Text = None  # the pretrained model: a run, a folder or a hub id
    autoencoder: Text = None  # a run or folder, for init=scratch
    clip: Text = None  # a CLIP with its image tower, for aesthetic gradients
    unet: dict[str, Any] = field(default_factory=dict)  # settings of diffusers' UNet
    vae: dict[str, Any] = field(default_factory=dict)  # settings of diffusers' AutoencoderKL
    text: dict[str, Any] = field(default_factory=dict)  # settings of the text encoder
    vocabulary_size: int = 1000  # of a tokenizer trained from scratch
    max_tokens: int = 77  # per caption
    recommended: dict[str, Any] = field(default_factory=dict)  # settings per method


# The fields of ModelConfig that name models which a run stands on: folders, runs or hub ids.
MODEL_KEYS = ("autoencoder", "source", "clip")


@dataclass
class MethodConfig:
    """What is trained, and with which loss. Each method has a dataclass of its own, derived from this one,
    with the settings that it has besides (ours: `birdsd.diffusion.method_configs`)."""

    name: str = MISSING
    species_balance: float = 0.0  # 0: as the shards have them; 1: every species as often as any other

    def __post_init__(self) -> None:
        """`noise` is no key: noise settings that were typed for a method that has none of its own, and which
        its base must not contradict."""
        self.noise: dict[str, Any] = {}

    @property
    def form(self) -> str:
        """Which form of the method is chosen; empty for one that has no forms."""
        return ""


@dataclass
class OptimConfig:
    """The optimizer and its schedule, in samples. Null: as the model preset recommends, else the usual."""

    optimizer: Text = None  # adamw or muon
    learning_rate: Optional[float] = None
    beta1: Optional[float] = None
    beta2: Optional[float] = None
    epsilon: Optional[float] = None
    weight_decay: Optional[float] = None
    gradient_clip: Optional[float] = None
    global_batch: Optional[int] = None
    total_samples: Optional[int] = None
    warmup_samples: Optional[int] = None
    decay: Text = None
    min_learning_rate_ratio: Optional[float] = None
    ema_decay: Optional[float] = None


OPTIMIZERS = ("adamw", "muon")

# What an OptimConfig field means where neither the user nor the model preset says anything.
OPTIM_DEFAULTS: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-4,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "global_batch": 16,
    "total_samples": 100_000,
    "warmup_samples": 1_000,
    "decay": "cosine",
    "min_learning_rate_ratio": 0.0,
    "ema_decay": 0.999,
}

# What the settings of a method that describe the noise mean from scratch; a base says its own.
NOISE_DEFAULTS: dict[str, Any] = {
    "prediction": "epsilon",
    "noise_schedule": "scaled_linear",
    "zero_terminal_snr": False,
}


@dataclass
class SaveConfig:
    """When a run saves, logs, validates and draws: in samples seen, so that no machine changes it."""

    every_samples: int = 2_000  # samples between checkpoints
    keep: int = 2  # number of newest checkpoints kept
    log_every_steps: int = 1  # steps between lines of metrics.jsonl
    validate_every_samples: int = 2_000  # samples between validations; 0: never
    validation_samples: int = 64  # samples per validation
    preview_every_samples: int = 0  # samples between previews; 0: never
    preview_prompts: list[str] = field(default_factory=list)  # empty: the first species of the shards
    max_bad_samples: int = 100  # more unreadable samples than this end the run
    max_failed_saves: int = 3  # this many in a row end the run; until then the next save tries again


@dataclass
class PrepareConfig:
    """recordings -> labelled spectrogram shards"""

    part: str = "0/1"  # i/n: the i-th of n tasks that split the work
    codec: CodecConfig = field(default_factory=CodecConfig)
    data: DataConfig = field(default_factory=DataConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)


@dataclass
class TrainConfig:
    """shards -> a trained model; the same command resumes it"""

    name: Text = None
    seed: int = 0
    runs: str = "runs"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    save: SaveConfig = field(default_factory=SaveConfig)


@dataclass
class CacheConfig(TrainConfig):
    """shards -> cached latents and text embeddings, so that training loads fewer networks"""

    part: str = "0/1"  # i/n: the i-th of n tasks that split the work


@dataclass
class ClipsConfig:
    """What decides generated clips: the settings that `generate` and `grid` share."""

    prompt: list[str] = field(default_factory=list)  # one, or a list
    run: Text = None  # a run, or an exported or imported folder
    count: int = 1  # clips per prompt
    seed: int = 0  # of the first clip
    steps: Optional[int] = None  # null: as the model recommends, else 25
    guidance: Optional[float] = None  # null: as the model recommends, else 3; 1 is none
    negative_prompt: str = ""  # what guidance steers away from
    scheduler: Text = None  # null: as the model recommends, else ddim
    batch_size: int = 8  # clips generated at once
    guidance_start: Optional[float] = None  # guided from this share of the schedule on; null: 0, the noise
    guidance_end: Optional[float] = None  # up to this one; null: 1, the picture
    guidance_rescale: Optional[float] = None  # 0..1 of the contrast that guidance adds is taken back; null: 0
    guide: Text = None  # a weaker model to steer away from: RUN, RUN@POSITION, @POSITION (of this run)
    guide_weight: Optional[float] = None  # how far; 1: not at all; null: 2
    seeds: list[int] = field(default_factory=list)  # count clips of every prompt for each; empty: seed alone
    add: list[str] = field(default_factory=list)  # adapters (LoRA, tokens, ...): FOLDER or run, with :WEIGHT
    base: Text = None  # base model of an adapter, if it has moved
    init: Text = None  # a recording (FILE@SECONDS: from there on) or an image to start from
    strength: Optional[float] = None  # of the change, 0 (none) to 1 (all); null: 0.6, with a mask 1
    mask_start_s: Optional[float] = None  # regenerate only this span of it
    mask_end_s: Optional[float] = None  # where this span ends
    loop: bool = False  # the end of each clip goes on with its beginning
    upscale: Text = (
        None  # a run of method=upscaler, or a file of an ESRGAN-family network: pictures made fine
    )
    upscale_sharpness: float = 0.0  # 0: closest to the truth; 1: as rough as recordings are
    emphasis: bool = True  # (word:1.3) weights a word; false: brackets are plain text
    aesthetic_steps: Optional[int] = None  # of personalising each prompt; null: 5, 0 turns it off
    aesthetic_rate: float = 1e-4  # learning rate of this personalisation
    aesthetic_behaviour: str = "original"  # or a1111
    aesthetic_weight: Optional[float] = None  # null: what the behaviour says
    aesthetic_blend: Text = None  # lerp or slerp; null: what the behaviour says
    aesthetic_negative: Optional[bool] = None  # the negative prompt is personalised too
    aesthetic_text: str = ""
    aesthetic_name: Text = None  # which embedding; null: that of the first species in the prompt
    runs: str = "runs"  # folder of the runs
    machine: MachineConfig = field(default_factory=MachineConfig)


@dataclass
class GenerateConfig(ClipsConfig):
    """prompts -> sounds, images, Raven tables, and the JSON recipes that reproduce them"""

    recipe: Text = None  # the JSON beside a clip: makes that clip again
    out: str = "generated"
    part: str = "0/1"  # i/n: the i-th of n tasks that split the clips


@dataclass
class GridConfig(ClipsConfig):
    """clips over any two settings of generate, side by side on one page"""

    x: Text = None  # SETTING=VALUE,VALUE,...; or SETTING=["a, b", "c"] where values hold commas
    y: Text = None
    out: str = "grid"


@dataclass
class EvaluateConfig:
    """a classifier or judge on labelled sounds: figures with intervals, curves, its worst mistakes"""

    run: Text = None  # a trained classifier
    judge: Text = None  # instead of run: a folder of BirdNET, an installed judge; null: installed BirdNET
    split: str = "test"  # of data.shards; without shards, all of the labelled data.recordings are heard
    threshold: float = 0.5  # from which score a class counts as named, 0 to 1
    thresholds: str = "fixed"  # or own: the classifier's; validation: each where F1 is highest on that split
    strong: bool = False  # also F1 of events with collars and PSDS, where labels say when
    collar_s: float = 0.5  # by how much the start of an event may differ
    trained_on: Text = None  # shards or recordings it learnt from; null: the run's, or the other splits
    leaks: str = "refuse"  # recordings and near-identical audio in two splits; strict: recordists too; list
    resamples: int = 10_000  # draws of recordings for the intervals
    seed: int = 0  # of these draws
    mistakes: int = 12  # the worst ones on the page, to listen to
    runs: str = "runs"  # folder of the runs
    out: str = "evaluation"
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class DemoConfig:
    """the whole pipeline once: recordings -> shards -> model -> kill -> resume -> sound -> report"""

    out: str = "demo"
    recordings: Text = None
    environment: Text = None
    codec: str = "birdsong-tiny"
    cuts_per_song: Optional[int] = None  # as data.cuts_per_song; null: 16, of the synthetic aviary 5
    model: str = "tiny"
    machine: str = "auto"
    seed: int = 0
    clips_per_species: int = 10
    steps: Optional[int] = None  # of sampling; this and what follows as for generate
    guidance: Optional[float] = None
    scheduler: Text = None
    guidance_start: Optional[float] = None
    guidance_end: Optional[float] = None
    guidance_rescale: Optional[float] = None
    guide: Text = None
    guide_weight: Optional[float] = None
    autoencoder_samples: Optional[int] = None
    diffusion_samples: Optional[int] = None


def _few_recordings() -> DataConfig:
    """Of eight recordings of a species one is held out, and seven are learnt from."""
    return DataConfig(validation_fraction=0.125, test_fraction=0.0)


@dataclass
class ComparisonConfig:
    """What comparisons share: birds, a base model, arms that learn as many samples, clips, a judge."""

    environment: Text = None  # a folder of environmental sound to mix in
    new_species: list[str] = field(default_factory=list)  # to be learnt; empty: the last three tenths by name
    base: Text = None  # a run, a folder or a hub id to start from; null: one is trained on the other species
    model: str = "tiny"
    codec: str = "birdsong-tiny"
    samples: int = 4_000  # training samples per arm
    autoencoder_samples: Optional[int] = None  # null: as the model preset recommends
    base_samples: Optional[int] = None
    clips_per_species: int = 16
    steps: int = 20
    guidance: float = 3.0
    seed: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # settings.ARM=[KEY=VALUE, ...]: of its training
    runs: str = "runs"  # where `base` and `clip` are looked for; the comparison's own runs lie below `out`
    part: str = "0/1"  # i/n: the i-th of n tasks that split the arms
    out: str = "comparison"
    data: DataConfig = field(default_factory=_few_recordings)
    machine: MachineConfig = field(default_factory=MachineConfig)


@dataclass
class MethodsConfig(ComparisonConfig):
    """compare all fine-tuning methods on the same birds and base model, with a report"""

    methods: list[str] = field(default_factory=list)  # the arms; empty: all of them
    clip: Text = None  # a CLIP with an image tower; null: one is trained for the base model
    clip_samples: Optional[int] = None
    out: str = "methods"


@dataclass
class FourWaysConfig(ComparisonConfig):
    """compare fine-tuning with training from scratch, on song and on song + environment, with a report"""

    environments: list[str] = field(default_factory=list)  # asked for; empty: the two that are mixed in most
    out: str = "four_ways"


@dataclass
class SongsConfig:
    """What decides single songs and who makes them: what `bank` and `scene` share."""

    run: Text = None  # a run, or an exported or imported folder, that makes the songs
    seed: int = 0
    tries: int = 4  # of a song that the judge does not confirm, each with the next seed
    judge: Text = None  # folder of BirdNET, an installed judge, weak or none; null: the best there is
    shards: Text = None  # of the weak check; null: those that the run was trained on
    steps: Optional[int] = None  # of sampling; this and what follows as for generate
    guidance: Optional[float] = None
    scheduler: Text = None
    batch_size: int = 8  # songs generated at once
    add: list[str] = field(default_factory=list)  # adapters, as for generate
    base: Text = None  # base model of an adapter, if it has moved
    upscale: Text = None  # makes pictures fine, as for generate
    upscale_sharpness: float = 0.0
    runs: str = "runs"  # folder of the runs
    part: str = "0/1"  # i/n: the i-th of n tasks that split the songs or scenes
    machine: MachineConfig = field(default_factory=MachineConfig)


@dataclass
class BankConfig(SongsConfig):
    """verified songs of every species, made once for any number of scenes"""

    recordings: Text = None  # labelled recordings to cut songs out of, instead of run
    rate_hz: int = 32000  # of songs cut out of recordings
    species: list[str] = field(default_factory=list)  # only these; empty: all that the model knows
    count: int = 16  # individuals per species and sound type, or recordings per species
    takes: int = 1  # songs per individual
    out: str = "bank"


@dataclass
class SceneConfig(SongsConfig):
    """whole soundscapes with measured labels: from prose, a table, or a distribution"""

    prompt: Text = None  # e.g. "a House Sparrow in loud rain followed by a Black Phoebe"
    scene: Text = None  # a scene as YAML or CSV, or a label table (Raven, Audacity) to sing anew
    birds: dict[str, Any] = field(default_factory=dict)  # of a label table: {bird in it: who sings its part}
    others: bool = False  # of a label table: other birds of the model sing all parts that birds does not name
    environment: Text = None  # of a label table: what is heard behind the birds
    recording: Text = None  # of a label table over several recordings: the one whose course it is
    distribution: Text = None  # YAML: what to draw scenes from
    recipe: Text = None  # the JSON beside a scene: makes that scene again
    count: int = 1  # scenes; number k depends on the seed and k alone
    confirm: str = "song"  # by the judge, alone; mix: what is not heard there is swapped, then left out
    loop: bool = False  # the end of the scene goes on with its beginning
    way: str = "events"  # on a background; canvas: in one latent, whose labels say what was asked for
    prompts: list[str] = field(default_factory=list)  # an animation from prompt to prompt
    times: list[float] = field(default_factory=list)  # seconds at which each prompt alone is heard
    duration_s: Optional[float] = None  # of an animation; null: to its last prompt
    moving: str = "auto"  # picture of an animation: gif, mp4, none; auto: both where ffmpeg is installed
    bank: Text = None  # a folder of `birdsd run bank`: no song is generated
    split: str = ""  # of the bank's songs and the pool's files: train, validation or test
    pool: Text = None  # recordings for backgrounds, a sub-folder for each environment
    layout: str = "mono"  # or ortf, ms (stereo), foa (ambisonics: W, Y, Z, X), array (a WAV per recorder)
    space: SpaceConfig = field(default_factory=SpaceConfig)
    format: str = "flac"  # or wav; both of 24 bits
    stems: bool = True  # keep every event and background as a file of its own
    picture: bool = True  # a spectrogram with the boxes on it; for a single scene also what was asked for
    out: str = "scenes"


# Job name -> its configuration. The module that runs it is jobs/NAME.py.
JOBS: dict[str, type] = {
    "prepare": PrepareConfig,
    "cache": CacheConfig,
    "train": TrainConfig,
    "generate": GenerateConfig,
    "grid": GridConfig,
    "bank": BankConfig,
    "scene": SceneConfig,
    "evaluate": EvaluateConfig,
    "bearings": BearingsConfig,
    "separate": SeparateConfig,
    "quality": QualityConfig,
    "sim2real": SimToRealConfig,
    "compare_methods": MethodsConfig,
    "finetune_vs_scratch": FourWaysConfig,
    "demo": DemoConfig,
}

# What jobs were called before; the old names still work for one release.
OLD_JOBS = {"methods": "compare_methods", "four_ways": "finetune_vs_scratch"}

# The key of a job that words without a = are values of: files, as a shell lists them.
BARE = {"separate": "recordings"}

# What goes with a job without being one: its settings are told apart from the job's by their names.
SUBMIT = "submit"

# The preset of each group that a job starts from.
GROUP_DEFAULTS: dict[str, dict[str, str]] = {
    "prepare": {"codec": "birdsong", "data": "song", "machine": "auto"},
    "cache": {"data": "song", "model": "tiny", "method": "full", "machine": "auto"},
    "train": {"data": "song", "model": "tiny", "method": "full", "machine": "auto"},
    "generate": {"machine": "auto"},
    "grid": {"machine": "auto"},
    "bank": {"machine": "auto"},
    "scene": {"machine": "auto"},
    "evaluate": {"data": "song"},
    "bearings": {},
    "separate": {},
    "quality": {"machine": "auto"},
    "sim2real": {"machine": "auto"},
    "compare_methods": {"data": "song", "machine": "auto"},
    "finetune_vs_scratch": {"data": "song", "machine": "auto"},
    "demo": {},
    SUBMIT: {"site": "local"},
}

# The sections of a training configuration that decide what is learnt (see config.signature).
SCIENTIFIC = ("seed", "model", "method", "optim")
