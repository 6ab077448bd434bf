"""Differentiable rasterization of 3D Gaussians; knows torch and nothing of a trainer."""

from diff_gaussian_rasterization.functional import Rasterization, rasterization

__all__ = ["Rasterization", "rasterization"]
