"""Adam over all tensors of a model in one call; knows no schedule and owns no state."""

from collections.abc import Sequence

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


@torch.no_grad()
def adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    lrs: Sequence[float],
    step: int,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-15,
) -> None:
    """One step of Adam on every tensor, in place; the arithmetic of `torch.optim.Adam`.

    All tensors are contiguous float32, and the four of one index have one shape.

    Args:
        exp_avgs: running means of the gradients, zero before the first step.
        exp_avg_sqs: running means of their squares, zero before the first step.
        lrs: one learning rate for each tensor.
        step: counts from 1; it corrects the bias of the young means.
    """
    # So that autograd refuses to go back through values that this step overwrites.
    torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs])
    ops.adam_step_(
        list(params),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        list(lrs),
        step,
        beta1,
        beta2,
        eps,
    )


@torch.library.register_fake(f"{_library.NAME}::adam_step_")
def _adam_fake(
    _params: list[Tensor],
    _grads: list[Tensor],
    _exp_avgs: list[Tensor],
    _exp_avg_sqs: list[Tensor],
    _lrs: list[float],
    _step: int,
    _beta1: float,
    _beta2: float,
    _eps: float,
) -> None:
    return None
