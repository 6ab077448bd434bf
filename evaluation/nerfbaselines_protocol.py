"""nerfbaselines' default measurement without LPIPS, for machines without AlexNet's weights."""

from typing import Any

import numpy as np
from nerfbaselines import metrics
from nerfbaselines.evaluation import DefaultEvaluationProtocol
from nerfbaselines.utils import convert_image_dtype, image_to_srgb


class WithoutLpips(DefaultEvaluationProtocol):  # type: ignore[misc]  # no types for mypy
    """PSNR, SSIM, MAE and MSE as the default protocol computes them."""

    def get_name(self) -> str:
        """As nb-info.json names it."""
        return "without-lpips"

    def evaluate(self, predictions: Any, dataset: Any) -> dict[str, float | int]:
        """The metrics of one image."""
        background = dataset["metadata"].get("background_color")
        space = dataset["metadata"]["color_space"]
        pair = [
            convert_image_dtype(
                image_to_srgb(image, np.uint8, color_space=space, background_color=background),
                np.float32,
            )[None]
            for image in (predictions["color"], dataset["images"][0])
        ]
        if dataset.get("masks") is not None:
            keep = convert_image_dtype(dataset["masks"][0], np.float32)[..., None]
            pair = [image * keep for image in pair]
        shown, photo = pair
        error = metrics.mse(shown, photo)
        return {
            "psnr": float(np.mean(metrics.psnr(error))),
            "ssim": float(np.mean(metrics.ssim(photo, shown))),
            "mae": float(np.mean(metrics.mae(photo, shown))),
            "mse": float(np.mean(error)),
        }
