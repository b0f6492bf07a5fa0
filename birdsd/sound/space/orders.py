"""Four channels of first-order ambisonics in whichever order and scale, as W, Y, Z, X (ACN) in SN3D."""

from __future__ import annotations

import numpy as np

from birdsd.errors import Mismatch, NothingLeft, unknown_name

ACN_SN3D, ACN_N3D, FUMA, AUTO = "acn-sn3d", "acn-n3d", "fuma", "auto"
ORDERS = (AUTO, ACN_SN3D, ACN_N3D, FUMA)
# (energies of the three gradients together) / W's, of a plane wave and of a diffuse field alike.
_RATIO = {ACN_SN3D: 1.0, FUMA: 2.0, ACN_N3D: 3.0}
_NEAR = 1.25  # a factor: so far from its ratio a recording may be
_SAY = "say order=acn-sn3d, acn-n3d or fuma, or give recordings of that kind"


def check_order(name: str) -> None:
    """`UserError` for an order that there is not."""
    if name not in ORDERS:
        raise unknown_name("order of the channels", name, ORDERS)


def as_foa(channels: np.ndarray, order: str) -> np.ndarray:
    """float32 [4, n] W, Y, Z, X in SN3D, of [4, n] in `order` (not `auto`)."""
    if order == ACN_N3D:
        scale = np.array([1, 3**-0.5, 3**-0.5, 3**-0.5], np.float32)
        return channels * scale[:, None]
    if order == FUMA:
        w, x, y, z = channels
        return np.stack([w * np.float32(2**0.5), y, z, x])
    return channels


def energies(channels: np.ndarray) -> np.ndarray:
    """float64 [4]: of the changes from sample to sample, which leave out offset, drift and rumble."""
    found: np.ndarray = np.square(np.diff(channels, axis=1)).sum(axis=1, dtype=np.float64)
    return found


def told_apart(energy: np.ndarray, place: str) -> str:
    """The order of a recording by the energies of its channels, [4]; `UserError` where they do not tell.

    In SN3D the gradients have as much energy as W together, in Furse-Malham twice as much. Three times as
    much is N3D, and also any four channels of equal loudness: that must be said.
    """
    if not energy[0] > 0:
        raise NothingLeft(f"the first channel of {place} is silent", "the pressure W is expected there", _SAY)
    ratio = float(energy[1:].sum() / energy[0])
    for name in (ACN_SN3D, FUMA):
        if _RATIO[name] / _NEAR <= ratio <= _RATIO[name] * _NEAR:
            return name
    raise Mismatch(
        f"the gradients of {place} have {ratio:.2f} times the energy of its first channel",
        "it is 1 in ACN/SN3D and 2 in FuMa; about 3 is N3D, or four channels that are no ambisonics",
        _SAY,
    )
