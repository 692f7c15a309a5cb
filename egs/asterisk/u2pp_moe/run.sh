#!/usr/bin/env bash
# U2++ with experts on the embedded speech: English studio prompts, and 3,000 sentences of TTS.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--scratch true] [any option of u2pp_moe.sh]
# `./run.sh --help` lists the stages; the options stand at the top of ../../TEMPLATE/u2pp_moe/u2pp_moe.sh.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# A pass sees 15 minutes of human prompts four times for two hours of TTS.
exec ../../TEMPLATE/u2pp_moe/u2pp_moe.sh \
  --train-sets "en/train:4 tts/speech:1" --dev-set en/dev --test-sets en/test --tts-utts 3000 \
  "$@"
