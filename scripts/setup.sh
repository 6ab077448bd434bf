#!/usr/bin/env bash
# Makes .venv with everything that twinsplat needs; does nothing when it is up to date.
#   scripts/setup.sh          with CUDA where torch finds a GPU, else for the CPU
#   scripts/setup.sh --cpu    for the CPU even if there is a GPU
#   scripts/setup.sh --dev    with the tools of the tests and linters too
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH="torch==2.13.0"
cpu=0
dev=0
for argument in "$@"; do
  case "$argument" in
    --cpu) cpu=1 ;;
    --dev) dev=1 ;;
    *) echo "error: unknown option '$argument'; use --cpu or --dev" >&2; exit 2 ;;
  esac
done

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "error: $("$python" --version) is too old; install Python 3.11 or newer, or set PYTHON" >&2
  exit 4
fi
if ! command -v "${CXX:-g++}" >/dev/null; then
  echo "error: no C++ compiler found; install g++ (Debian: apt install g++ python3-dev)" >&2
  exit 4
fi

# What the environment is made from; the same text means there is nothing to do.
recipe() {
  "$python" --version
  echo "$TORCH cpu=$cpu"
  cat pyproject.toml scripts/setup.sh
  find submodules -type f \( -name '*.py' -o -name '*.toml' -o -name '*.cpp' -o -name '*.h' \
    -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' \) -not -path '*/build/*' -print0 |
    sort -z | xargs -0 cat
}
stamp=$(recipe | sha256sum | cut -d' ' -f1)
level=$([ "$dev" = 1 ] && echo dev || echo run)
if [ -f .venv/stamp ]; then
  read -r old_stamp old_level < .venv/stamp
  if [ "$old_stamp" = "$stamp" ] && { [ "$old_level" = dev ] || [ "$level" = run ]; }; then
    exit 0
  fi
  if [ "$old_level" = dev ]; then dev=1 level=dev; fi
fi

# A torch that already sees the GPU is taken as it is; a CPU machine gets a pinned one.
if [ ! -x .venv/bin/python ]; then
  if [ "$cpu" = 0 ] && "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    "$python" -m venv --system-site-packages .venv
  else
    "$python" -m venv .venv
  fi
fi
py=.venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK=1
echo "setup: installing into .venv (a few minutes the first time)" >&2
"$py" -W ignore -c 'import torch' 2>/dev/null || "$py" -m pip install -q "$TORCH" 2> >(grep -v '^WARNING: Location' >&2)
"$py" -m pip install -q "pip>=25.1" "setuptools>=77" wheel ninja 2> >(grep -v '^WARNING: Location' >&2)
# Nothing that follows may replace torch.
"$py" -W ignore -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' > .venv/constraints.txt
before=$("$py" -W ignore -c 'import torch; print(torch.__version__)')
groups=()
if [ "$dev" = 1 ]; then groups=(--group dev); fi
"$py" -m pip install -q -c .venv/constraints.txt ".[log]" "${groups[@]}" 2> >(grep -v '^WARNING: Location' >&2)
if [ "$cpu" = 1 ]; then export TWINSPLAT_CPU_ONLY=1; fi
PYTHONWARNINGS=ignore "$py" -m pip install -q --no-build-isolation --no-deps \
  -e submodules/simple-knn -e submodules/diff-gaussian-rasterization
after=$("$py" -W ignore -c 'import torch; print(torch.__version__)')
if [ "$before" != "$after" ]; then
  echo "error: installing replaced torch $before by $after; remove .venv and report this" >&2
  exit 4
fi
"$py" -c 'import diff_gaussian_rasterization, simple_knn'
echo "$stamp $level" > .venv/stamp
echo "setup: ready, torch $after" >&2
