#!/usr/bin/env bash
# Makes .venv with everything that twinsplat needs; does nothing when it is up to date.
#   scripts/setup.sh          for the GPU where there is an NVIDIA GPU, else for the CPU
#   scripts/setup.sh --cpu    for the CPU even if there is a GPU
#   scripts/setup.sh --cuda   for the GPU even if there is none here, as on a login node
#   scripts/setup.sh --dev    with the tools of the tests and linters too
#   scripts/setup.sh --wheels PLACE
#                             without a compiler: the operators come from a wheel that
#                             scripts/wheels.sh made of the same sources on another machine; PLACE
#                             is a folder or an address that lists files, as is TWINSPLAT_WHEELS
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
CPU_WHEELS=https://download.pytorch.org/whl/cpu
kind=${TWINSPLAT_CPU_ONLY:+cpu}
level=run
wheels=${TWINSPLAT_WHEELS:-}
while [ $# -gt 0 ]; do
  case "$1" in
    --cpu) kind=cpu ;;
    --cuda) kind=cuda ;;
    --dev) level=dev ;;
    --wheels)
      if [ -z "${2:-}" ]; then echo "error: --wheels needs a folder or an address" >&2; exit 2; fi
      wheels=$2
      shift ;;
    *) echo "error: unknown option '$1'; use --cpu, --cuda, --dev or --wheels PLACE" >&2; exit 2 ;;
  esac
  shift
done

# Two at a time would install over each other.
exec 9> .venv.lock
if ! flock -n 9; then
  echo "setup: another one is at work in this checkout; waiting for it" >&2
  flock 9
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old; install Python 3.11 or newer, or set PYTHON" >&2
  exit 4
fi

# An environment keeps its tools, and one made for the GPU stays so where the disk is shared with
# machines that have none.
old_stamp="" old_level="" old_kind=""
if [ -f .venv/stamp ]; then read -r old_stamp old_level old_kind < .venv/stamp; fi
if [ "$old_level" = dev ]; then level=dev; fi
has_gpu=0
if nvidia-smi -L >/dev/null 2>&1; then has_gpu=1; fi
if [ -z "$kind" ]; then
  kind=cpu
  if [ "$has_gpu" = 1 ] || [ "$old_kind" = cuda ]; then kind=cuda; fi
fi

# What the environment is made from; the same text means there is nothing to do.
recipe() {
  "$python" --version
  echo "torch $TORCH for $kind"
  cat pyproject.toml scripts/setup.sh
  find submodules -type f \( -name '*.py' -o -name '*.toml' -o -name '*.cpp' -o -name '*.h' \
    -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' \) -not -path '*/build/*' -print0 |
    sort -z | xargs -0 cat
}
stamp=$(recipe | sha256sum | cut -d' ' -f1)
if [ "$old_stamp" = "$stamp" ] && [ "$old_level" = "$level" ]; then exit 0; fi

if [ -z "$wheels" ] && ! command -v "${CXX:-g++}" >/dev/null; then
  echo "error: no C++ compiler found; install g++ (Debian: apt install g++ python3-dev), or give wheels" \
    "that scripts/wheels.sh made on another machine: scripts/setup.sh --wheels FOLDER" >&2
  exit 4
fi

py=.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1
install() { "$py" -m pip install -q "$@" 2> >(grep -vE '^WARNING: (Location|Retrying)' >&2); }
holds() { "$1" -W ignore -c "import sys, torch; sys.exit(not ($2))" 2>/dev/null; }
echo "setup: installing into .venv (a few minutes the first time)" >&2
if [ ! -x "$py" ]; then
  # A torch that already sees the GPU is taken as it is.
  if [ "$kind" = cuda ] && holds "$python" "torch.cuda.is_available()"; then
    "$python" -m venv --system-site-packages .venv
  else
    "$python" -m venv .venv
  fi
fi
if [ "$kind" = cuda ]; then
  # `===` means the wheel with CUDA, also where 2.13.0+cpu is on offer.
  holds "$py" "torch.version.cuda" || install "torch===$TORCH"
  if [ "$has_gpu" = 1 ] && ! holds "$py" "torch.cuda.is_available()"; then
    release=$("$py" -W ignore -c 'import torch; print(torch.version.cuda)')
    echo "error: torch for CUDA $release sees no GPU, though nvidia-smi does: update the driver to one" \
      "of CUDA $release or newer (nvidia-smi names its own), or use --cpu" >&2
    exit 4
  fi
else
  holds "$py" "True" || install --retries 1 --extra-index-url "$CPU_WHEELS" "torch==$TORCH"
  export TWINSPLAT_CPU_ONLY=1
fi
install "pip>=25.1" "setuptools>=77" wheel ninja
# Where the machine has no compiler that fits, the one of the release that torch was built with.
toolkit() { "$py" -W ignore submodules/diff-gaussian-rasterization/toolkit.py; }
if [ "$kind" = cuda ] && [ -z "$wheels" ] && ! toolkit >/dev/null 2>&1; then
  release=$("$py" -c 'from importlib.metadata import version; print(version("cuda-toolkit"))' \
    2>/dev/null || true)
  if [ -n "$release" ]; then install "cuda-toolkit[nvcc,crt,nvvm,cccl]==$release"; fi
  toolkit >/dev/null || exit 4
fi
# Nothing that follows may replace torch.
"$py" -W ignore -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' > .venv/constraints.txt
before=$("$py" -W ignore -c 'import torch; print(torch.__version__)')
groups=()
if [ "$level" = dev ]; then groups=(--group dev); fi
# Editable, so that programs started elsewhere, such as nerfbaselines, find the checkout.
install -c .venv/constraints.txt -e ".[log]" "${groups[@]}"
# On its own, since it asks for numpy below 2, which it runs with, and for opencv, which the tests
# do not reach; what it does need is in the group dev.
if [ "$level" = dev ]; then install --no-deps "nerfbaselines>=1.2.12"; fi
build=(--no-build-isolation --no-deps)
PYTHONWARNINGS=ignore "$py" -m pip install -q "${build[@]}" -e submodules/simple-knn
rasterizer=submodules/diff-gaussian-rasterization
if [ -z "$wheels" ]; then
  PYTHONWARNINGS=ignore "$py" -m pip install -q "${build[@]}" -e "$rasterizer"
else
  version=$("$py" -W ignore "$rasterizer/version.py" "$kind")
  if ! install --no-deps --no-index --find-links "$wheels" "diff-gaussian-rasterization==$version" 2>/dev/null; then
    echo "error: no wheel of diff-gaussian-rasterization $version for this machine in $wheels; make it" \
      "with scripts/wheels.sh --$kind from these sources on a machine with a compiler" >&2
    exit 4
  fi
fi
after=$("$py" -W ignore -c 'import torch; print(torch.__version__)')
if [ "$before" != "$after" ]; then
  echo "error: installing replaced torch $before by $after; remove .venv and report this" >&2
  exit 4
fi
if ! "$py" -W ignore -c 'import diff_gaussian_rasterization, simple_knn' 2>/dev/null; then
  "$py" -m arguments.doctor && echo "error: the installed operators do not load; remove .venv and report this" >&2
  exit 4
fi
echo "$stamp $level $kind" > .venv/stamp
echo "setup: ready, torch $after, for the $kind" >&2
