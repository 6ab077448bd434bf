#!/usr/bin/env bash
# Every scene of the three benchmarks, dual and ema, three seeds, as one sweep with one table:
#   scripts/run_all.sh DATA -o OUT [flags of python -m evaluation.sweep]
# DATA holds what scripts/prepare_*.sh made: DATA/onthego, DATA/robustnerf, DATA/phototourism.
# Interrupted, it goes on where it was when it is called again.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
data=${1:?error: give the folder of the prepared datasets}
shift
scenes=(
  "$data/onthego/mountain"
  "$data/onthego/fountain"
  "$data/onthego/corner"
  "$data/onthego/patio"
  "$data/onthego/spot"
  "$data/onthego/patio-high"
  "$data/robustnerf/statue"
  "$data/robustnerf/android"
  "$data/robustnerf/yoda"
  "$data/robustnerf/crab2"
  "$data/phototourism/brandenburg_gate"
  "$data/phototourism/sacre_coeur"
  "$data/phototourism/trevi_fountain"
)
python=${PYTHON:-$root/.venv/bin/python}
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m evaluation.sweep "${scenes[@]}" \
  --methods dual ema --seeds 0 1 2 "$@"
