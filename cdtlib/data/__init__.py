"""The domains: drawn animals (`zoo`) and folders of photos (`photos`), which `download` makes of the paper's data sets.

A domain is the pictures of one class, its train or its test side. Both kinds offer the same things::

    domain.name             the class, e.g. "zebra"
    domain.split            "train" or "test"
    domain.size             side of the pictures in pixels
    domain.fingerprint      hexadecimal SHA-256 of all that determines the pictures
    len(domain)             how many there are
    domain.batch(indices)   those pictures: uint8 RGB, (len(indices), 3, size, size)

Pictures are kept as uint8 in 0…255; networks see float32 in [-1, 1], the range of tanh.
"""

from torch import Tensor, float32, uint8


def to_float(pictures: Tensor) -> Tensor:
    """uint8 pictures in 0…255 to float32 in [-1, 1]. Any shape."""
    if pictures.dtype != uint8:
        raise TypeError(f"to_float takes uint8 pictures, not {pictures.dtype}")
    return pictures.to(float32) / 127.5 - 1


def to_uint8(pictures: Tensor) -> Tensor:
    """Float pictures in [-1, 1] (clamped) to the nearest of 0…255, uint8. Any shape."""
    if not pictures.is_floating_point():
        raise TypeError(f"to_uint8 takes float pictures in [-1, 1], not {pictures.dtype}")
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(uint8)
