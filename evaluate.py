"""Measure a trained run: `python evaluate.py -m OUT` writes OUT/metrics.json."""

import os
import sys
from collections.abc import Sequence

# Read when torch is loaded: a waiting thread that spins takes the core that another needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from arguments.cli import parse, run_command
from arguments.messages import ExitCode, Messages
from evaluation.commands import EvaluateCommand
from evaluation.evaluate import Evaluation, evaluate, write_metrics
from evaluation.run_views import open_views


def summary(result: Evaluation) -> str:
    """The means in one line."""
    total = result.num_views + len(result.failures)
    count = f"n={result.num_views} of {total}"
    lpips = "-" if result.lpips is None else f"{result.lpips:.4f}"
    iou = "-" if result.mask_iou is None else f"{result.mask_iou:.3f}"
    return (
        f"{result.split} step {result.step}: PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.4f}, "
        f"{result.lpips_name} {lpips}, mask IoU {iou}, {result.num_gaussians} Gaussians, {count}"
    )


def main(arguments: Sequence[str]) -> ExitCode:
    """Parse, measure, report."""
    command = parse(EvaluateCommand, arguments, "evaluate.py", "Measure a trained run.")
    messages = Messages(quiet=command.quiet)
    views = open_views(command.request(), messages)
    result = evaluate(views, command.split, messages, command.perceptual())
    if result is None:
        return ExitCode.OK
    path = write_metrics(command.model_path, result)
    print(summary(result))
    messages.note(f"written: {path}")
    command.check_lpips(result)
    return ExitCode.BAD_INPUT if result.failures else ExitCode.OK


if __name__ == "__main__":
    run_command(lambda arguments: sys.exit(main(arguments)))
