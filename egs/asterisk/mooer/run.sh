#!/usr/bin/env bash
# The embedded recipe: studio prompts of a telephone exchange in five languages, Whisper base, SmolLM2-135M.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--ast-langs "es fr it ru"] [any option of mooer.sh]
# `./run.sh --help` lists the stages; the options stand at the top of ../../TEMPLATE/mooer/mooer.sh.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# English prompts are transcribed, Spanish ones translated; 3,000 TTS sentences bring the words that
# 20 minutes of prompts lack.
exec ../../TEMPLATE/mooer/mooer.sh \
  --asr-langs en --ast-langs es \
  --tts-utts 3000 \
  --asr-weight 4 --ast-weight 1.5 --both-weight 0.5 --tts-weight 0.3 \
  "$@"
