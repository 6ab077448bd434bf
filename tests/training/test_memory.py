"""What a run says about memory."""

import torch

from training.memory import peak_bytes


def test_the_peak_covers_what_has_been_held() -> None:
    held = torch.ones(30_000_000)  # 120 MB, touched
    assert peak_bytes(held.device) >= held.nbytes
    before = peak_bytes(held.device)
    del held
    assert peak_bytes(torch.device("cpu")) >= before
