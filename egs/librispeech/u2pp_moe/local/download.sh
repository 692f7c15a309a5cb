#!/usr/bin/env bash
# Download the corpus to downloads/ with lhotse; what is there already stays.

set -euo pipefail

. ./path.sh
command -v lhotse >/dev/null || { echo "download.sh: error: lhotse is not installed: make install EXTRAS=corpora" >&2; exit 2; }
mkdir -p downloads
lhotse download librispeech downloads
