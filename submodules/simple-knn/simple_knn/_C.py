"""The import path under which 3DGS code looks for this function; no code of its own."""  # noqa: N999

from simple_knn.neighbours import mean_squared_distance

distCUDA2 = mean_squared_distance  # noqa: N816 - the name is the interface

__all__ = ["distCUDA2"]
