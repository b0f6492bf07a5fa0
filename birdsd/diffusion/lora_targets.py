"""The layers that a LoRA updates, by the names of method.targets: no torch is imported here."""

from __future__ import annotations

TEXT_ENCODER = "text_encoder"
# method.targets -> the ends of the names of the UNet's layers that a LoRA updates; of the text encoder's.
TARGETS: dict[str, tuple[str, ...]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed_forward": ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    "convolutions": ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
}
TEXT_LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj")
