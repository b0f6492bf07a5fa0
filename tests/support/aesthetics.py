"""The published method of aesthetic gradients, to compare with."""

from __future__ import annotations

import copy

import torch

from birdsd.diffusion.networks.tokenizer import token_ids

VISION = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip


def published(encoder, tokenizer, projection, e, prompt, steps, rate):
    """The paper's code, but for its choice of CLIP: tune a copy of the text model with Adam towards e."""
    ids = token_ids(tokenizer, [prompt])
    end = ids[0].tolist().index(tokenizer.eos_token_id)
    e = e / e.norm(dim=-1, keepdim=True)
    model = copy.deepcopy(encoder).requires_grad_(True)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(steps):
        features = model(ids).last_hidden_state[:, end] @ projection.T
        features = features / features.norm(dim=-1, keepdim=True)
        loss = -(features @ e.T).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model(ids).last_hidden_state
