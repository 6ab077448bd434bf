"""Distances to nearest neighbours in a point cloud; knows nothing of Gaussians."""

from simple_knn.neighbours import MIN_SQUARED_DISTANCE, mean_squared_distance

__all__ = ["MIN_SQUARED_DISTANCE", "mean_squared_distance"]
