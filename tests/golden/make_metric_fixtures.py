"""Makes metrics.json beside this file with torchmetrics (1.9.0); run it by hand.

    pip install --no-deps --target /tmp/oracle torchmetrics==1.9.0 lightning-utilities
    PYTHONPATH=.:/tmp/oracle python -m tests.golden.make_metric_fixtures

torchmetrics is no dependency, since it fails to import beside a torchvision of another build. The
pictures come from integers alone, so that no generator of random numbers has to stay what it is.
"""

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

FILE = Path(__file__).resolve().parent / "metrics.json"
# Height, width and by how many levels two pictures differ at most.
CASES = {
    "noisy": (40, 60, 25),
    "nearly equal": (33, 27, 1),
    "unlike": (24, 48, 200),
    "smallest": (11, 11, 60),
}


def pictures(height: int, width: int, noise: int) -> tuple[UInt8[torch.Tensor, "H W 3"], ...]:
    """A picture of slopes and edges, and the same with a noise of whole numbers."""
    row, column, channel = np.mgrid[:height, :width, :3].astype(np.int64)
    clean = (3 * row + 2 * column + 40 * channel + 70 * ((row // 7 + column // 5) % 2)) % 256
    scattered = (row * 7919 + column * 104729 + channel * 1299709) * 2654435761 % 2**32 >> 16
    noisy = np.clip(clean + scattered % (2 * noise + 1) - noise, 0, 255)
    return tuple(torch.from_numpy(levels.astype(np.uint8)) for levels in (clean, noisy))


def main() -> None:
    """Measure every case with the oracle, in double precision."""
    import torchmetrics
    from torchmetrics.functional import image as oracle

    values = {}
    for name, case in CASES.items():
        clean, noisy = ((p.double() / 255).permute(2, 0, 1)[None] for p in pictures(*case))
        values[name] = {
            "psnr": oracle.peak_signal_noise_ratio(noisy, clean, data_range=1.0).item(),
            "ssim": oracle.structural_similarity_index_measure(noisy, clean, data_range=1.0).item(),
        }
    content = {"torchmetrics": torchmetrics.__version__, "values": values}
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
