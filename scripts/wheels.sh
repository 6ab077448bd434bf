#!/usr/bin/env bash
# Makes the wheel of the compiled operators, for machines that have no compiler:
#   scripts/wheels.sh [FOLDER]   for what .venv is for, into FOLDER or dist/
#   scripts/wheels.sh --cpu      for the CPU
#   scripts/wheels.sh --cuda     with the kernels for every GPU
# There, in a checkout of the same sources: scripts/setup.sh --wheels FOLDER. A wheel serves every
# Python, one minor release of torch, and C libraries that are not older than this machine's.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=""
folder=dist
for argument in "$@"; do
  case "$argument" in
    --cpu) kind=cpu ;;
    --cuda) kind=cuda ;;
    -*) echo "error: unknown option '$argument'; use --cpu or --cuda, and a folder" >&2; exit 2 ;;
    *) folder=$argument ;;
  esac
done

scripts/setup.sh ${kind:+"--$kind"}
read -r _ _ kind < .venv/stamp
py=.venv/bin/python
package=submodules/diff-gaussian-rasterization
if [ "$kind" = cuda ]; then
  # Not only for the GPU that may be here.
  TORCH_CUDA_ARCH_LIST=$("$py" -W ignore "$package/toolkit.py" --architectures)
  export TORCH_CUDA_ARCH_LIST
else
  # What setup.sh has just built from these files.
  TWINSPLAT_LIBRARY=$PWD/$package/diff_gaussian_rasterization/_C.so
  export TWINSPLAT_LIBRARY
  if [ ! -f "$TWINSPLAT_LIBRARY" ]; then
    echo "error: $TWINSPLAT_LIBRARY is missing, since .venv was made from a wheel: take that one" >&2
    exit 4
  fi
fi
PYTHONWARNINGS=ignore "$py" -m pip wheel -q --no-build-isolation --no-deps -w "$folder" "./$package"
ls "$folder"/diff_gaussian_rasterization-"$("$py" -W ignore "$package/version.py" "$kind")"-*.whl
