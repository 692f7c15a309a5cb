#!/usr/bin/env bash
# utils/split_scp.sh: split a list or a data folder into parts for parallel jobs.
#
# Usage: utils/split_scp.sh ARGS    (all of them are passed on; --help lists them)
#
# The same as: utils/data_dir.py split ARGS
# The Python is, in this order: $PYTHON, the active virtual environment's, the repository's .venv.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$root/.venv/bin/python" ]; then
  python=$root/.venv/bin/python
fi

PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/utils/data_dir.py" split "$@"
