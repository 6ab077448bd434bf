"""Flip single bits of a checkpoint, and of what torch.save writes of the same tensors.

python -m tests.faults.bit_flips --flips 1000 [--seed 0].
"""

import argparse
import io
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from arguments.config import ModelConfig, TrainConfig
from arguments.messages import UserError
from scene.gaussians import Gaussians
from training import checkpoint
from training.branches import ProxyBranch
from training.state import TrainState


def save_state(folder: Path) -> tuple[Path, TrainState]:
    """A checkpoint of 300 random Gaussians in two branches."""
    draw = torch.Generator().manual_seed(0)
    sizes = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": ()}
    sizes |= {"sh0": (1, 3), "shN": (15, 3), "filter_3d": ()}
    branches = [
        ProxyBranch(
            name,
            Gaussians(**{n: torch.randn(300, *s, generator=draw) for n, s in sizes.items()}),
            decay=0.8,
        )
        for name in ("a", "b")
    ]
    state = TrainState(list(branches), step=7)
    config = TrainConfig(ModelConfig(Path("scene")))
    return checkpoint.save(folder, state, config, "digest", 1.5), state


def flipped(content: bytes, bit: int) -> bytes:
    """The content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refusals(path: Path, count: int, seed: int) -> Iterator[str]:
    """What loading says after each of `count` flips, every other in the manifest; "" is silence."""
    rng = random.Random(seed)
    for number in range(count):
        target = path if number % 2 else path.with_suffix(".json")
        whole = target.read_bytes()
        target.write_bytes(flipped(whole, rng.randrange(8 * len(whole))))
        try:
            checkpoint.load(path)
            yield ""
        except UserError as damage:
            yield str(damage)
        target.write_bytes(whole)


def torch_outcomes(state: TrainState, count: int, seed: int) -> Counter[str]:
    """How `torch.load(weights_only=True)` fares on the same tensors."""
    rng = random.Random(seed)
    stream = io.BytesIO()
    torch.save(state.tensors(), stream)
    whole, outcomes = stream.getvalue(), Counter[str]()
    for _ in range(count):
        damaged = io.BytesIO(flipped(whole, rng.randrange(8 * len(whole))))
        try:
            found = torch.load(damaged, weights_only=True)
        except Exception:  # noqa: BLE001 - whatever it raises is a refusal
            outcomes["refused"] += 1
            continue
        same = state.tensors()
        is_equal = found.keys() == same.keys() and all(
            torch.equal(found[name].nan_to_num(), same[name].nan_to_num()) for name in same
        )
        outcomes["no effect" if is_equal else "silently wrong"] += 1
    return outcomes


def main() -> int:
    """Print how many flips each format reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, state = save_state(Path(folder))
        said = list(refusals(path, told.flips, told.seed))
        named = sum("differs in '" in text for text in said)
        sys.stdout.write(
            f"checkpoint: {sum(map(bool, said))} of {len(said)} flips refused, "
            f"{named} of them with the tensor's name\n"
        )
        outcomes = torch_outcomes(state, told.flips, told.seed)
        sys.stdout.write(f"torch.save, torch.load(weights_only=True): {dict(outcomes)}\n")
    return int(not all(said))


if __name__ == "__main__":
    sys.exit(main())
