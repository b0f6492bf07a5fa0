"""Models, LoRA, tokens and aesthetic embeddings as other programs read and write them.

`ldm` names the parts of a single-file checkpoint, `settings` its yaml, `loras` and `embeddings` the small
files; `tensors` reads and writes them safely; `exporter` and `importer` put it together.
"""

from birdsd.method_facts import kinds_in

_LINES = {
    "diffusers": "a pipeline folder, with the adapter merged in",
    "a1111": "for AUTOMATIC1111's web UI",
    "comfyui": "for ComfyUI",
    "ckpt": "one .ckpt file, for older programs",
    "peft": "peft's adapter folders",
    "kohya": "a LoRA in kohya's names",
    "diffusers-lora": "a LoRA in diffusers' names",
    "embedding": "tokens in diffusers' form",
    "kohya-embedding": "tokens in kohya's form",
    "onnx": "a classifier, for programs without torch",
}
# Format -> (what it is, the kinds that it holds).
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    name: (line, kinds_in(name)) for name, line in _LINES.items()
}
