"""How a step is carried out: plain torch, optimizer offload, or DeepSpeed ZeRO."""
