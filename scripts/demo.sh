#!/usr/bin/env bash
# Sets everything up, makes the built-in capture, trains on it in three ways and compares them.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
exec .venv/bin/python scripts/demo.py "$@"
