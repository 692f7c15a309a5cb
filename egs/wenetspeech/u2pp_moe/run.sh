#!/usr/bin/env bash
# U2++ and UME on WenetSpeech: 10,000 hours of Mandarin from the internet, written in characters.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--config conf/moe_1b.yaml] [any option of u2pp_moe.sh]

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/u2pp_moe/u2pp_moe.sh --language zh --metric cer \
  --train-sets "L" --dev-set DEV --test-sets "DEV TEST_NET TEST_MEETING" --average 10 \
  "$@"
