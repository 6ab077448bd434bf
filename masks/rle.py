"""Run-length codes of masks as the COCO dataset writes them; knows no files."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

LARGEST_MASK = 1 << 28  # pixels


def decode_rle(
    height: int, width: int, counts: str | bytes | Sequence[int]
) -> Bool[ndarray, "H W"]:
    """The mask behind alternating lengths of runs outside and inside it, column by column.

    Args:
        counts: the lengths, as numbers or in COCO's letters.

    Raises:
        ValueError: the runs do not fill the picture exactly.
    """
    if not 0 < height * width <= LARGEST_MASK or height < 1:
        raise ValueError(f"a mask of {width}x{height} pixels")
    runs = letters_to_runs(counts) if isinstance(counts, str | bytes) else list(counts)
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise ValueError(f"its runs do not add up to {width}x{height} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def letters_to_runs(letters: str | bytes) -> list[int]:
    """Lengths of runs from COCO's letters.

    Each letter carries 6 bits above '0': 5 bits of a number in two's complement, the lowest first,
    and whether more follow. From the fourth on a number is the difference to the one two before.

    Raises:
        ValueError: there is another letter, or the last number has no end.
    """
    code = letters.encode("ascii") if isinstance(letters, str) else letters
    numbers, value, shift = [], 0, 0
    for byte in code:
        bits = byte - ord("0")
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("its letters are no run lengths")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            numbers.append(value - (1 << shift) if bits & 0x10 else value)
            value, shift = 0, 0
    if shift:
        raise ValueError("its letters end in the middle of a number")
    first = numbers[:1]
    odd, even = list(accumulate(numbers[1::2])), list(accumulate(numbers[2::2]))
    return first + [run for pair in zip(odd, even, strict=False) for run in pair] + odd[len(even) :]
