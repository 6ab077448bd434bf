"""Masks that may overlap, laid into layers in which they do not."""

import numpy as np
from jaxtyping import Bool, Int32
from numpy import ndarray

SMALL_OVERLAP = 0.05  # of a mask; so much of it may take pixels from a larger one


def stack_masks(masks: Bool[ndarray, "K H W"]) -> Int32[ndarray, "L H W"]:
    """Layers of labels from 1 on, 0 where there is no mask; the last layer has the largest masks.

    Each mask, the largest first, goes to the first layer in which it hardly touches another; where
    it does, the smaller one takes the pixels. Without any mask there is one empty layer.
    """
    sizes = masks.sum(axis=(1, 2))
    layers: list[Int32[ndarray, "H W"]] = []
    for number in np.argsort(-sizes, kind="stable"):
        mask = masks[number]
        if not sizes[number]:
            continue
        for layer in layers:
            if np.count_nonzero(layer[mask]) <= SMALL_OVERLAP * sizes[number]:
                break
        else:
            layer = np.zeros(masks.shape[1:], dtype=np.int32)
            layers.append(layer)
        layer[mask] = layer.max() + 1
    if not layers:
        layers.append(np.zeros(masks.shape[1:], dtype=np.int32))
    return np.stack(layers[::-1])
