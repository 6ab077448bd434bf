"""The small cases that compute-sanitizer watches: sound, and none of the operators is missing."""

import torch

from tests.cuda.sanitizer_cases import run


def test_every_operator_has_a_case_whose_results_are_finite(device: torch.device) -> None:
    assert run(device) == []
