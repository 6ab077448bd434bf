"""Differentiable rasterization of 3D Gaussians; knows torch and nothing of a trainer."""

from diff_gaussian_rasterization._library import supports_device
from diff_gaussian_rasterization.activations import Activated, activate
from diff_gaussian_rasterization.functional import Rasterization, TileLists, rasterization
from diff_gaussian_rasterization.inria import GaussianRasterizationSettings, GaussianRasterizer
from diff_gaussian_rasterization.losses import (
    mean_difference,
    photometric_loss,
    photometric_losses,
    ssim_map,
)
from diff_gaussian_rasterization.machine import instruction_set
from diff_gaussian_rasterization.optim import adam_rates, adam_step_
from diff_gaussian_rasterization.residuals import color_residual, patch_residual
from diff_gaussian_rasterization.segments import SegmentRule, segment_trust
from diff_gaussian_rasterization.select import kth_smallest, kth_smallest_of_each
from diff_gaussian_rasterization.statistics import count_step_, observe_, watch_
from diff_gaussian_rasterization.trust import TrustBank, trust_loss, trust_step_

__all__ = [
    "Activated",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Rasterization",
    "SegmentRule",
    "TileLists",
    "TrustBank",
    "activate",
    "adam_rates",
    "adam_step_",
    "color_residual",
    "count_step_",
    "instruction_set",
    "kth_smallest",
    "kth_smallest_of_each",
    "mean_difference",
    "observe_",
    "patch_residual",
    "photometric_loss",
    "photometric_losses",
    "rasterization",
    "segment_trust",
    "ssim_map",
    "supports_device",
    "trust_loss",
    "trust_step_",
    "watch_",
]
