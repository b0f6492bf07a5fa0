"""Reading samples by number against webdataset's own pipeline, and against reading the bytes at all."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.common import Row, Size, paired
from birdsd.shards.index import ShardIndex
from birdsd.shards.order import SampleOrder
from birdsd.shards.reader import ShardReader
from birdsd.shards.storage.writer import ShardWriter

SHARDS = 10


def run(size: Size) -> list[Row]:
    """Rows of reading."""
    per_shard = size.of(400, 100, 4)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, per_shard)
        return [*_throughput(folder, size), _positioning(folder, SHARDS * per_shard)]


def _write(folder: Path, per_shard: int) -> None:
    """Cached latents as a diffusion model of 512 x 512 images has them."""
    draw = np.random.default_rng(0)
    for shard in range(SHARDS):
        with ShardWriter(folder / f"train-{shard:06d}.tar") as writer:
            for number in range(per_shard):
                latent = draw.standard_normal((4, 64, 64)).astype(np.float16)
                facts = {"captions": ["a wren"], "species": ["Wren"], "recording_id": f"r{number}"}
                writer.write(f"s{shard}-{number}", {"npy": latent, "json": facts})


def _throughput(folder: Path, size: Size) -> list[Row]:
    import webdataset

    index = ShardIndex.open(folder)
    reader = ShardReader(index, "train")
    numbers = SampleOrder(index.shard_sizes("train"), seed=0).batch(0, len(reader)).tolist()
    tars = [str(path) for path in sorted(folder.glob("*.tar"))]

    def ours() -> None:
        for number in numbers:
            reader.read(number)

    def peer() -> None:
        count = sum(1 for _ in webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode())
        assert count == len(numbers)

    def raw() -> None:
        for tar in tars:
            with open(tar, "rb", buffering=0) as stream:
                while stream.read(1 << 20):
                    pass

    against_peer = paired(ours, peer, repeats=size.of(5, 5, 1))
    against_raw = paired(ours, raw, repeats=size.of(15, 15, 1))
    rate = len(numbers) / against_raw.ours_s
    return [
        Row(
            "reader", "webdataset / birdsd in shuffled order, fp16 [4,64,64]", against_peer.speedup, 15.0,
            note=f"{rate / 1000:.0f}k samples/s",
        ),
        Row(
            "reader", "raw read of the tar / birdsd, decoded and shuffled", against_raw.speedup, 0.45,
            note=f"raw {len(numbers) / against_raw.peer_s / 1000:.0f}k samples/s",
        ),
    ]  # fmt: skip


def _positioning(folder: Path, total: int) -> Row:
    """A fresh process's way to its first batch of 16: open, order, read. At 90% of an epoch against 0%."""

    def begin(position: int) -> float:
        start = time.perf_counter()
        index = ShardIndex.open(folder)
        order = SampleOrder(index.shard_sizes("train"), seed=0)
        ShardReader(index, "train").read_many(order.batch(position, 16))
        return time.perf_counter() - start

    begin(0)
    pairs = [(begin(0), begin(int(total * 0.9))) for _ in range(21)]
    ratio = statistics.median(late / early for early, late in pairs)
    note = f"{1000 * statistics.median(late for _, late in pairs):.1f} ms"
    return Row(
        "reader", "first batch at 90% of an epoch / at 0%", ratio, 1.2, higher_is_better=False, note=note
    )
