#!/usr/bin/env bash
# U2++ and UME on LibriSpeech: 960 hours of read English, written in sentencepiece's pieces.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--scratch true] [any option of u2pp_moe.sh]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/u2pp_moe/u2pp_moe.sh --pieces 5000 \
  --train-sets "train-clean-100 train-clean-360 train-other-500" --dev-set dev-clean \
  --test-sets "test-clean test-other" --average 30 \
  "$@"
