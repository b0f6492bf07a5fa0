"""Whether what is tested on was learnt from: recordings, recordists, near-identical sound."""

from birdsd.evaluation.leakage.check import AUDIO, RECORDING, RECORDIST, Leak, Leaks, leaks
from birdsd.evaluation.leakage.sets import from_folder, from_shards, same_pictures

__all__ = [
    "AUDIO", "RECORDING", "RECORDIST", "Leak", "Leaks", "from_folder", "from_shards", "leaks",
    "same_pictures",
]  # fmt: skip
