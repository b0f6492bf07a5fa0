"""The settings of each method, `method.KEY`: a dataclass each, without torch.

Fields that several methods share stand in a class that they derive from. A run's signature leaves out what is
at its default, so that a default is never changed here; a preset in configs/method/ may say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from birdsd.schema import MethodConfig, Text


@dataclass
class AdversaryConfig(MethodConfig):
    """What methods have that learn from crops of pictures, and beside a discriminator."""

    crop_frames: int = 0  # width of the crops that it learns from; 0: whole pictures
    adversary_weight: float = 0.0  # of a discriminator's gradient beside the reconstruction's; 0: none
    adversary_start_samples: int = 0  # it learns and teaches from there on
    adversary_learning_rate: float = 2e-3  # of its weights, which have unit variance, at the schedule's peak
    adversary_channels: int = 16  # of its first layer


@dataclass
class AutoencoderConfig(AdversaryConfig):
    """The spectrogram autoencoder: reconstruction losses, and a discriminator beside them."""

    kl_weight: float = 1e-6  # of the divergence of the latents from a standard normal distribution
    gradient_weight: float = 0.0  # of the error of differences between neighbouring pixels
    texture_weight: float = 0.0  # of the error of local mean and standard deviation
    feature_weight: float = 0.0  # of the error of the features of model.clip's image tower


@dataclass
class UpscalerConfig(AdversaryConfig):
    """The upscaler: a small network of the ESRGAN family, and what its coarse pictures go through."""

    scale: int = 2  # or 4: a coarse cell is so many bands by so many frames of the shards
    architecture: str = "compact"  # or rrdb
    features: int = 32  # channels of its layers
    depth: int = 8  # convolutions of compact, dense blocks of rrdb
    growth: int = 16  # of architecture=rrdb: channels that a convolution of a dense block adds
    error: str = "absolute"  # mean absolute error, or spectral: the root mean square over the bands
    loud_weight: float = 1.0  # how much more than silence the loudest cell counts
    autoencoder_share: float = 0.5  # of the coarse pictures that go through model.autoencoder
    noise_levels: float = 4.0  # of the noise on coarse pictures: up to so many of 255
    level_shift_db: float = 6.0  # pictures are made louder or softer by up to this much


@dataclass
class DenoisingConfig(MethodConfig):
    """What every method has that learns by denoising."""

    min_snr_gamma: float = 0.0  # clips the loss weight of timesteps with little noise; 0: no weighting
    caption_dropout: float = 0.1  # probability of an empty caption, which guidance needs


@dataclass
class WeightsConfig(DenoisingConfig):
    """What methods have that train the weights themselves."""

    train_text_encoder: bool = True
    learns: list[str] = field(default_factory=list)  # patterns of parameter names; empty: all of them


@dataclass
class FullConfig(WeightsConfig):
    """Full fine-tuning, and training from scratch, which chooses its noise."""

    prediction: Text = None  # null: epsilon; for a pretrained model always its own prediction type
    noise_schedule: Text = None  # null: scaled_linear, or the base's
    zero_terminal_snr: bool | None = None  # null: false, or as the base has it


@dataclass
class LoraConfig(DenoisingConfig):
    """Low-rank updates beside frozen weights."""

    rank: int = 0  # 0: as the model preset recommends, else 8
    alpha: float = 0.0  # 0: as large as the rank, so that the update is scaled by 1
    targets: list[str] = field(default_factory=list)  # empty: as the model preset recommends, else attention


@dataclass
class TextualInversionConfig(DenoisingConfig):
    """New tokens, whose vectors alone are trained."""

    tokens: str = "per_species"  # or style: one token for them all
    style_token: str = "<birdsong>"  # of tokens=style
    vectors: int = 0  # per token; 0: as the model preset recommends, else 1
    initial_word: str = "bird"  # a token begins as the vector of this word


@dataclass
class DreamBoothConfig(DenoisingConfig):
    """A rare word for each species, and class images that preserve what the model knew."""

    base_method: str = "lora"  # or full
    word: str = "rare"  # or class: the species' own name
    class_word: str = "bird"  # what a species is
    prior_weight: float = 1.0  # of the class images' error beside the samples'; 0: no class images
    class_prompts: list[str] = field(default_factory=list)  # empty: "a bird", and what it knows by name
    class_samples: int = 100  # number of class images
    class_steps: int = 25  # sampling steps of a class image
    class_guidance: float = 3.0  # guidance scale of class images

    @property
    def form(self) -> str:
        """What it stands on."""
        return self.base_method


@dataclass
class DreamBoothOnLoraConfig(DreamBoothConfig, LoraConfig):
    """DreamBooth on low-rank updates."""


@dataclass
class DreamBoothOnFullConfig(DreamBoothConfig, WeightsConfig):
    """DreamBooth on the weights themselves."""


@dataclass
class ClassifierConfig(MethodConfig):
    """A classifier of species: network, loss, and augmentation, each of whose kinds is off at 0."""

    network: str = "cnn"  # crnn: also says when; timm: see backbone
    backbone: Text = None  # of network=timm: its name, or a folder with config.json and model.safetensors
    width: int = 24  # channels of the first stage of cnn and crnn
    classes: list[str] = field(default_factory=list)  # species to tell apart; empty: those of the shards
    relative: bool = True  # levels are heard against the clip's loud frames; false: against full scale
    floor_db: float = -40.0  # what is so far below is silence
    spectral_subtraction: float = 0.0  # so many times each band's steady power is taken off
    loss: str = "bce"  # several species may be in a clip; or focal; cross_entropy: exactly one is
    smoothing: float = 0.0  # of the targets
    focal_gamma: float = 2.0  # of loss=focal: how much less clips count that are easy
    focal_alpha: float = 0.25  # of loss=focal: what a present class counts
    class_weights: float = 0.0  # of the loss; 1: rare species count as much as frequent ones
    frame_weight: float = 1.0  # of the error of network=crnn in each frame, where labels have times
    dropout: float = 0.0  # share of the embedding left out
    mixup: float = 0.0  # share of clips with another one mixed in; the labels are the union
    mixup_snr_db: float = 6.0  # one is up to this much louder than the other
    background: float = 0.0  # share of clips over a clip without a bird
    background_snr_low_db: float = 0.0  # drawn between this and background_snr_high_db
    background_snr_high_db: float = 30.0  # see background_snr_low_db
    shift_s: float = 0.0  # turned round in time, up to this much
    gain_db: float = 0.0  # up to this much louder or softer
    equaliser_db: float = 0.0  # a smooth curve over the bands, up to this much up or down
    pitch_shift: float = 0.0  # every pitch higher or lower, up to this share
    time_stretch: float = 0.0  # faster or slower, up to this share
    band_masks: int = 0  # stripes of bands left out (SpecAugment)
    time_masks: int = 0  # stripes of frames left out
    mask_share: float = 0.1  # the widest stripe, as a share of the picture
    patience: int = 0  # validations without a lower loss that end the run, the best is kept; 0: to its end
