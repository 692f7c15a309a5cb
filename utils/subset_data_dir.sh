#!/usr/bin/env bash
# utils/subset_data_dir.sh: make a smaller data folder out of a data folder.
#
# Usage: utils/subset_data_dir.sh ARGS    (all of them are passed on; --help lists them)
#
# The same as: utils/data_dir.py subset ARGS
# The Python is, in this order: $PYTHON, the active virtual environment's, the repository's .venv.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
fi

PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/utils/data_dir.py" subset "$@"
