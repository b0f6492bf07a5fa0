"""Scalars, pictures and sound for TensorBoard. The position (samples seen) is the step there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Trackers:
    """Writes to RUN/tensorboard from rank 0; elsewhere it does nothing."""

    def __init__(self, run_folder: Path, position: int, enabled: bool = True) -> None:
        self._writer: Any = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter

            # What an earlier process wrote beyond the position that we resume from is hidden.
            purge = position + 1 if position else None
            self._writer = SummaryWriter(str(Path(run_folder) / "tensorboard"), purge_step=purge)

    def scalars(self, values: Mapping[str, float], position: int) -> None:
        """Add scalars by tag."""
        if self._writer is not None:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, position)

    def lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Add the figures of lines of metrics.jsonl, as KIND/NAME."""
        for line in lines:
            values = {k: v for k, v in line.items() if k not in ("kind", "position", "samples")}
            scalars = {f"{line['kind']}/{name}": value for name, value in values.items() if value is not None}
            self.scalars(scalars, line["position"])

    def previews(self, paths: Sequence[Path], position: int) -> None:
        """Add pictures (.png) and sound (.wav); other files are left where they are."""
        if self._writer is None:
            return
        import numpy as np

        for path in paths:
            if path.suffix == ".png":
                from PIL import Image

                with Image.open(path) as picture:
                    self._writer.add_image(
                        path.stem, np.asarray(picture.convert("RGB")), position, dataformats="HWC"
                    )
            elif path.suffix == ".wav":
                import soundfile

                from birdsd.sound.audio.channels import mix_down

                samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
                self._writer.add_audio(
                    path.stem, mix_down(samples.T, rate_hz)[None], position, sample_rate=rate_hz
                )
        self._writer.flush()

    def close(self) -> None:
        """Write out what is waiting."""
        if self._writer is not None:
            self._writer.close()
