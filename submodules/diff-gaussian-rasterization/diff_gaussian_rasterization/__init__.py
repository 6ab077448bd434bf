"""Differentiable rasterization of 3D Gaussians; knows torch and nothing of a trainer."""

from diff_gaussian_rasterization._library import supports_device
from diff_gaussian_rasterization.activations import Activated, activate
from diff_gaussian_rasterization.functional import Rasterization, rasterization
from diff_gaussian_rasterization.inria import GaussianRasterizationSettings, GaussianRasterizer
from diff_gaussian_rasterization.losses import photometric_loss, ssim_map
from diff_gaussian_rasterization.machine import instruction_set
from diff_gaussian_rasterization.optim import adam_step_

__all__ = [
    "Activated",
    "GaussianRasterizationSettings",
    "GaussianRasterizer",
    "Rasterization",
    "activate",
    "adam_step_",
    "instruction_set",
    "photometric_loss",
    "rasterization",
    "ssim_map",
    "supports_device",
]
