#!/usr/bin/env bash
# Sets everything up and runs the tests, a file at a time on each of up to four cores; arguments go
# to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh --dev
cores=$(nproc)
exec .venv/bin/python -m pytest -n $((cores < 4 ? cores : 4)) --dist loadfile "$@"
