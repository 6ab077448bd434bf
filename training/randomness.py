"""Random numbers that follow from (seed, step, purpose) alone.

So a resumed run needs no replay, and one purpose never shifts the numbers of another.
"""

import hashlib

import torch


def generator(seed: int, step: int, purpose: str, device: str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose at one step."""
    text = f"{seed}/{step}/{purpose}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
    return torch.Generator(device).manual_seed(key % 2**63)


def pick(seed: int, step: int, purpose: str, count: int) -> int:
    """One of 0 ... count-1, uniformly."""
    text = f"{seed}/{step}/{purpose}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    return key % count
