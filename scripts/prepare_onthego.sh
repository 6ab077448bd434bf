#!/usr/bin/env bash
# Makes scenes to train on from the download of NeRF On-the-go (on-the-go.zip, unpacked):
#   scripts/prepare_onthego.sh -s DOWNLOAD -o OUT [--scenes NAME ...]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m scene.preparation onthego "$@"
