#!/usr/bin/env bash
# Makes scenes to train on from the download of PhotoTourism (the archives of its scenes, unpacked, and NeRF-W's lists):
#   scripts/prepare_phototourism.sh -s DOWNLOAD -o OUT [--scenes NAME ...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m scene.preparation phototourism "$@"
