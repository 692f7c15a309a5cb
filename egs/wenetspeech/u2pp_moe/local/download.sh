#!/usr/bin/env bash
# WenetSpeech comes with a password from its authors: this only looks whether it is there.

set -euo pipefail

if [ ! -f downloads/WenetSpeech/WenetSpeech.json ]; then
  echo "download.sh: error: ask for WenetSpeech on its page, and link it: mkdir -p downloads && ln -s /path/to/WenetSpeech downloads/WenetSpeech" >&2
  exit 2
fi
