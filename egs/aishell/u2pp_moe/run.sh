#!/usr/bin/env bash
# U2++ and UME on AISHELL-1: 178 hours of read Mandarin, written in characters.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--scratch true] [any option of u2pp_moe.sh]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/u2pp_moe/u2pp_moe.sh --language zh --metric cer \
  --train-sets "train" --dev-set dev --test-sets "test" --average 30 \
  "$@"
