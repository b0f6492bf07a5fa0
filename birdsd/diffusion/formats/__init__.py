"""Models, LoRA, tokens and aesthetic embeddings as other programs read and write them.

`ldm` names the parts of a single-file checkpoint, `settings` its yaml, `loras` and `embeddings` the small
files; `tensors` reads and writes them safely; `exporter` and `importer` put it together.
"""

# Format -> (what it is, the kinds that it holds).
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "diffusers": ("a pipeline folder, with the adapter merged in", ("pipeline", "lora", "embedding")),
    "a1111": ("for AUTOMATIC1111's web UI", ("pipeline", "lora", "embedding", "aesthetic")),
    "comfyui": ("for ComfyUI", ("pipeline", "lora", "embedding")),
    "ckpt": ("one .ckpt file, for older programs", ("pipeline",)),
    "peft": ("peft's adapter folders", ("lora",)),
    "kohya": ("a LoRA in kohya's names", ("lora",)),
    "diffusers-lora": ("a LoRA in diffusers' names", ("lora",)),
    "embedding": ("tokens in diffusers' form", ("embedding",)),
    "kohya-embedding": ("tokens in kohya's form", ("embedding",)),
}
