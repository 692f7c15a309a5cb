#!/usr/bin/env bash
# tools/install_espnet.sh: put ESPnet beside mooer_tk, for its encoders. Optional.
#
# Usage: tools/install_espnet.sh [--venv DIR]
#
# Options:
#   --venv DIR   the virtual environment that tools/install.sh made; a relative path is taken from
#                the repository's top folder   (default: .venv)
#
# ESPnet is installed without its dependencies: it asks for old versions (setuptools<74,
# sentencepiece==0.2.0, ...) that would break what is there. Its encoders (espnet2.asr.encoder) need
# only typeguard beside what mooer_tk has; other parts of ESPnet (frontends, TTS, recipes) may ask
# for more packages. It needs Python 3.11, because ESPnet 202511 uses modules that 3.12 dropped.
# Afterwards the script checks that torch is still the same and that an encoder can be imported.

set -euo pipefail

venv=.venv

Here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$Here/../utils/parse_options.sh"

Espnet_version=202511
cd "$Here/.."

fail() {
  printf 'install_espnet: %s\n' "$1" >&2
  exit 1
}

if ! [ -x "$venv/bin/python" ]; then
  fail "no virtual environment in $venv; make it with tools/install.sh --venv $venv"
fi
version=$("$venv/bin/python" -c 'import platform; print(platform.python_version())')
case $version in
  3.11.*) ;;
  *) fail "$venv has Python $version, ESPnet $Espnet_version needs 3.11: tools/install.sh --venv .venv311 --python python3.11" ;;
esac

torch_version() {
  "$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null
}
torch_before=$(torch_version) || fail "no torch in $venv; run tools/install.sh --venv $venv first."

# pip, not uv: it reads its own configuration of indexes and wheel folders.
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet \
  -c tools/constraints.txt --no-deps "espnet==$Espnet_version" typeguard ||
  fail "pip could not install espnet==$Espnet_version; see above."

torch_after=$(torch_version || true)
if [ "$torch_after" != "$torch_before" ]; then
  fail "torch changed from $torch_before to ${torch_after:-nothing}; remove $venv and run tools/install.sh again."
fi
"$venv/bin/python" -W ignore -c 'from espnet2.asr.encoder.conformer_encoder import ConformerEncoder' ||
  fail "espnet2.asr.encoder.conformer_encoder cannot be imported; see above."
printf 'install_espnet: ESPnet %s is in %s, torch is still %s.\n' "$Espnet_version" "$venv" "$torch_after"
