#!/usr/bin/env bash
# Makes scenes to train on from the download of RobustNeRF (robustnerf.tar.gz, unpacked):
#   scripts/prepare_robustnerf.sh -s DOWNLOAD -o OUT [--scenes NAME ...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m scene.preparation robustnerf "$@"
