"""Adam over all tensors of a model in one call; knows no schedule and owns no state."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diff_gaussian_rasterization import _library

ops = getattr(torch.ops, _library.NAME)


def adam_rates(lrs: Sequence[float], step: int, beta1: float = 0.9, beta2: float = 0.999) -> Tensor:
    """The numbers of `adam_step_` that change from step to step: float32 [n, 2], on the CPU.

    The columns are the step size, lr / (1 - beta1^step), and the scale of the root of the mean
    square, 1 / sqrt(1 - beta2^step): both correct the bias of means that started from zero.

    Args:
        lrs: one learning rate for each tensor.
        step: counts from 1.

    Raises:
        ValueError: `step` is below 1.
    """
    if step < 1:
        raise ValueError(f"adam_rates: step counts from 1, got {step}")
    root_scale = 1 / math.sqrt(1 - beta2**step)
    rows = [(lr / (1 - beta1**step), root_scale) for lr in lrs]
    return torch.tensor(rows, dtype=torch.float32, device="cpu").reshape(len(rows), 2)


@torch.no_grad()
def adam_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    lrs: Sequence[float] | None = None,
    step: int | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-15,
    *,
    rates: Tensor | None = None,
    averages: Sequence[Tensor] | None = None,
    decay: float = 0.0,
    visible: Tensor | None = None,
    frozen: Tensor | None = None,
) -> None:
    """One step of Adam on every tensor, in place; the arithmetic of `torch.optim.Adam`.

    All tensors are contiguous float32, and those of one index have one shape.

    Args:
        exp_avgs: running means of the gradients, zero before the first step.
        exp_avg_sqs: running means of their squares, zero before the first step.
        lrs: one learning rate for each tensor.
        step: counts from 1; it corrects the bias of the young means.
        rates: float32 [n, 2] from `adam_rates`, in place of `lrs` and `step`; on the CPU, or on
            the parameters' device, where a captured CUDA graph reads what it holds at each replay.
        averages: one for each parameter, moved after the update to
            decay average + (1 - decay) parameter.
        visible: int32 or bool [M]; only rows with a positive entry are updated, of parameters and
            of both means. The averages move in all rows.
        frozen: int32 [1]; nothing changes where it is not 0.

    Raises:
        ValueError: neither `rates` nor both of `lrs` and `step`, or all of them.
    """
    if rates is None and lrs is not None and step is not None:
        rates = adam_rates(lrs, step, beta1, beta2)
    elif rates is None or lrs is not None or step is not None:
        raise ValueError("adam_step_: give either rates, or lrs and step")
    averages = averages or []
    # So that autograd refuses to go back through values that this step overwrites.
    torch.autograd.graph.increment_version([*params, *exp_avgs, *exp_avg_sqs, *averages])
    ops.adam_step_(
        list(params),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        list(averages),
        rates,
        beta1,
        beta2,
        eps,
        decay,
        visible,
        frozen,
    )


@torch.library.register_fake(f"{_library.NAME}::adam_step_")
def _adam_fake(
    _params: list[Tensor],
    _grads: list[Tensor],
    _exp_avgs: list[Tensor],
    _exp_avg_sqs: list[Tensor],
    _averages: list[Tensor],
    _rates: Tensor,
    _beta1: float,
    _beta2: float,
    _eps: float,
    _decay: float,
    _visible: Tensor | None,
    _frozen: Tensor | None,
) -> None:
    return None
