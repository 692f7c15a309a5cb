#!/usr/bin/env bash
# tools/install.sh: make the Python environment of mooer_tk, with the versions of tools/constraints.txt.
#
# Usage: tools/install.sh [--venv DIR] [--extras dev,label] [--python PYTHON] [--dry-run] [--force]
#
# Options:
#   --venv DIR       the virtual environment to make or to complete; a relative path is taken from
#                    the repository's top folder                           (default: .venv)
#   --extras A,B     groups of optional packages in setup.py: dev, label, demo, deepspeed, espnet, corpora
#                                                                          (default: none)
#   --python PYTHON  the Python to use, 3.11 or 3.12   (default: the venv's own if it is there, or
#                    the first of python3.12, python3.11 and python3 that fits)
#   --dry-run        print what would be done, and change nothing          (default: false)
#   --force          install even when nothing changed since the last time (default: false)
#
# Steps: make the venv; put uv (a fast installer) into it with pip; install torch; install the
# toolkit itself in editable mode with the extras; check the result.
#
# torch: with an NVIDIA driver (nvidia-smi -L succeeds) the ordinary build. Without one the CPU build,
# from the first place that has it: the find-links folders of your pip configuration, PyTorch's own
# CPU index, and the ordinary build as pip is configured here (it works on a CPU too, but is larger).
#
# Mirrors and wheel folders: what pip is told by its configuration files or by PIP_* variables
# (find-links, index-url, extra-index-url, no-index, cert, trusted-host) is passed on to uv. UV_*
# variables that you set yourself win. When uv cannot do a step, pip does it.
#
# After success a stamp file in the venv records a hash of tools/constraints.txt, setup.py, the
# Python version and this folder, and the extras; while they stay the same, later runs return at once.
# Extras add up: asking for fewer than are there does nothing. To start afresh remove the venv.

set -euo pipefail

venv=.venv
extras=
python=
dry_run=false
force=false

Here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$Here/../utils/parse_options.sh"

Root=$(cd "$Here/.." && pwd)
Constraints=$Root/tools/constraints.txt
cd "$Root"

say() { printf 'install: %s\n' "$1"; }
warn() { printf 'install: warning: %s\n' "$1" >&2; }
fail() {
  printf 'install: %s\n' "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
  exit 1
}

# step WHAT COMMAND...: run the command, then print WHAT and the seconds it took.
step() {
  local what=$1 begin=$SECONDS
  shift
  "$@"
  printf 'install: %4d s  %s\n' "$((SECONDS - begin))" "$what"
}

# Print X.Y.Z of the Python $1, or nothing if it does not run.
python_version() {
  "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || true
}

version_fits() {
  case $1 in
    3.11.* | 3.12.*) return 0 ;;
    *) return 1 ;;
  esac
}

# --- Which Python -------------------------------------------------------------------------------

if [ $# -gt 0 ]; then fail "unexpected argument '$1'; tools/install.sh --help tells the options."; fi
if ! [[ $extras =~ ^[a-z,]*$ ]]; then
  fail "--extras takes names separated by commas, such as dev,label; not '$extras'."
fi

venv_version=""
if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
  venv_version=$(python_version "$venv/bin/python")
fi

if [ -n "$python" ]; then
  version=$(python_version "$python")
  if [ -z "$version" ]; then fail "--python $python does not run. Name a Python 3.11 or 3.12."; fi
  if ! version_fits "$version"; then fail "--python $python is $version; mooer_tk needs 3.11 or 3.12."; fi
  if [ -n "$venv_version" ] && [ "${venv_version%.*}" != "${version%.*}" ]; then
    fail "$venv holds Python $venv_version, but --python $python is $version." \
      "Remove it (rm -r $venv) or choose another folder with --venv."
  fi
fi
if [ -n "$venv_version" ]; then
  if ! version_fits "$venv_version"; then
    fail "$venv holds Python $venv_version; mooer_tk needs 3.11 or 3.12." \
      "Remove it (rm -r $venv) or choose another folder with --venv."
  fi
  python=$venv/bin/python
  version=$venv_version
elif [ -z "$python" ]; then
  seen=""
  for candidate in python3.12 python3.11 python3; do
    version=$(python_version "$candidate")
    if version_fits "$version"; then
      python=$candidate
      break
    fi
    if [ -n "$version" ]; then seen="$seen $candidate is $version;"; fi
  done
  if [ -z "$python" ]; then
    fail "no Python 3.11 or 3.12 found (tried python3.12, python3.11, python3;${seen:- none runs;})." \
      "Install one (on Debian 12: apt-get install python3 python3-venv; without root: conda or pyenv)," \
      "and name it if it is not on PATH: tools/install.sh --python /path/to/python3.11"
  fi
fi

if [ -z "$venv_version" ] && ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
  fail "$python ($version) cannot make virtual environments: its module ensurepip is missing." \
    "On Debian and Ubuntu: apt-get install python3-venv (or python${version%.*}-venv)." \
    "Without root: take a Python from conda or pyenv with --python /path/to/python3.11"
fi

# --- Is there anything to do --------------------------------------------------------------------

Stamp=$venv/.mooer_install
base_hash=$("$python" - "$Root" "$version" "$Constraints" "$Root/setup.py" <<'PYTHON'
import hashlib, pathlib, sys

digest = hashlib.sha256("\0".join(sys.argv[1:3]).encode())
for name in sys.argv[3:]:
    digest.update(pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
)
# The stamp's two lines: the hash, and the extras as ,a,b,
stamp_hash=""
stamp_extras=","
if [ -f "$Stamp" ] && [ -n "$venv_version" ]; then
  { read -r stamp_hash && read -r stamp_extras; } <"$Stamp" || stamp_hash=""
fi
if [ "$stamp_hash" != "$base_hash" ]; then stamp_extras=","; fi

all_extras=$stamp_extras
for extra in ${extras//,/ }; do
  if ! grep -Eq "^ +\"$extra\": " setup.py; then
    fail "no extra '$extra' in setup.py; there are: dev, label, demo, deepspeed, espnet."
  fi
  if [[ $all_extras != *",$extra,"* ]]; then all_extras+="$extra,"; fi
done
if [ "$stamp_hash" = "$base_hash" ] && [ "$all_extras" = "$stamp_extras" ] && [ "$force" = false ]; then
  say "nothing to do: $venv is up to date (Python $version, extras:${stamp_extras//,/ })."
  exit 0
fi
wanted=${all_extras#,}
wanted=${wanted%,}
spec=.${wanted:+[$wanted]}

# --- What pip is told about indexes and wheel folders ---------------------------------------------

torch_pin=$(sed -n 's/^torch==//p' "$Constraints")
if [ -z "$torch_pin" ]; then fail "tools/constraints.txt has no line torch==VERSION; put it back."; fi

gpu=false
if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then gpu=true; fi

# Prints lines "KEY<TAB>VALUE": settings for uv, skipped entries, and folders with a torch wheel.
read_pip_settings() {
  "$python" - "$torch_pin" "$gpu" <<'PYTHON'
import ast, pathlib, re, subprocess, sys, urllib.parse, urllib.request

torch_pin, gpu = sys.argv[1], sys.argv[2] == "true"
listing = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
values = {}
for line in listing.stdout.splitlines():
    found = re.fullmatch(r"(global|install|:env:)\.([a-z-]+)=(.*)", line)
    if found:
        section, key, value = found.groups()
        values.setdefault(key, {})[section] = str(ast.literal_eval(value))


def last(key):  # pip lets install override global, and the environment override both
    for section in (":env:", "install", "global"):
        if values.get(key, {}).get(section):
            return values[key][section]
    return ""


def entries(key):
    seen = {}
    for section in (":env:", "install", "global"):
        for entry in values.get(key, {}).get(section, "").split():
            seen.setdefault(entry)
    return list(seen)


def local_path(entry):
    if entry.startswith("file:"):
        return pathlib.Path(urllib.request.url2pathname(urllib.parse.urlsplit(entry).path))
    return None if re.match(r"[a-z]+:", entry) else pathlib.Path(entry).expanduser()


def usable(entry, separator):
    path = local_path(entry)
    if path is None and not re.match(r"https?://[^/]+", entry):
        reason = "not an address that uv knows"
    elif path is not None and not path.exists():
        reason = "it does not exist"
    elif separator in entry:
        reason = f"uv separates entries with {separator!r}"
    else:
        return True
    print(f"skip\t{entry}\t{reason}")
    return False


tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
links = []
for entry in entries("find-links"):
    if not usable(entry, ","):
        continue
    path = local_path(entry)
    wheels = []
    if path is not None and path.is_dir():
        wheels = [urllib.parse.unquote(w.name) for w in path.glob("torch-*.whl")]
        wheels = [w for w in wheels if w.split("-")[1].split("+")[0] == torch_pin and w.split("-")[2] == tag]
    if gpu and wheels and all("+cpu" in w for w in wheels):
        print(f"skip\t{entry}\tits torch is a CPU build, and this machine has an NVIDIA driver")
        continue
    if wheels:
        print(f"torch\t{path.resolve()}")
    links.append(entry if path is None else str(path.resolve()))
index = last("index-url")
extra = [e for e in entries("extra-index-url") if usable(e, " ")]
# uv may take a poorer wheel of the same version (one without its bundled library) from a partial mirror on the disk.
for entry in [e for e in extra if local_path(e) is not None]:
    print(f"skip\t{entry}\ta partial index on the disk; pip reads it if uv cannot install without it")
    extra.remove(entry)
if links:
    print("UV_FIND_LINKS\t" + ",".join(links))
if index and usable(index, " "):
    print("UV_DEFAULT_INDEX\t" + index)
if extra:
    # pip takes the best version of all indexes; uv by default that of the first which has the package.
    print("UV_INDEX\t" + " ".join(extra))
    print("UV_INDEX_STRATEGY\tunsafe-best-match")
if last("no-index").lower() in ("1", "true", "yes", "on"):
    print("UV_NO_INDEX\t1")
if last("cert") and pathlib.Path(last("cert")).is_file():
    print("SSL_CERT_FILE\t" + last("cert"))
if entries("trusted-host"):
    print("UV_INSECURE_HOST\t" + " ".join(entries("trusted-host")))
PYTHON
}

load_pip_settings() {
  local key value reason
  torch_folders=()
  no_index=()
  while IFS=$'\t' read -r key value reason; do
    case $key in
      skip) say "not passed on to uv: $value ($reason)" ;;
      torch) torch_folders+=("$value") ;;
      UV_NO_INDEX) no_index=(--no-index) ;;
      *)
        # A variable that the user set wins.
        if [ -z "${!key-}" ]; then
          export "$key=$value"
          say "from pip's configuration: $key=$(sed -E 's#//[^/@ ]*@#//***@#g' <<<"$value")"
        fi
        ;;
    esac
  done < <(read_pip_settings)
}

# --- The ways to torch, in the order in which they are tried --------------------------------------

plan_torch() {
  torch_ways=(plain)
  if [ $gpu = false ]; then
    torch_ways=()
    if [ "${#torch_folders[@]}" -gt 0 ]; then torch_ways+=(folder); fi
    # An index of one's own instead of the public one means that PyTorch's is not to be reached either.
    if [ "${#no_index[@]}" -eq 0 ] && [ -z "${UV_DEFAULT_INDEX-}" ] && [ "$(uname -s)" = Linux ]; then
      torch_ways+=(cpu-index)
    fi
    torch_ways+=(plain)
  fi
}

if [ "$dry_run" = true ]; then
  load_pip_settings
  plan_torch
  say "plan: Python $version ($python)"
  say "plan: venv $venv$([ -n "$venv_version" ] && printf ' (there already)' || printf ' (new)')"
  say "plan: torch $torch_pin, NVIDIA driver: $gpu, ways: ${torch_ways[*]}"
  say "plan: install -e $spec with tools/constraints.txt"
  say "plan: stamp $base_hash ${all_extras}"
  exit 0
fi

# --- Install --------------------------------------------------------------------------------------

rm -f "$Stamp"

make_venv() {
  "$python" -m venv "$venv" || fail "making the virtual environment $venv failed; see above." \
    "If it says that ensurepip is missing: apt-get install python3-venv"
}

# A "user = true" in pip's configuration makes no sense in a venv, and pip would refuse to go on.
export PIP_USER=0
Pip=("$venv/bin/python" -m pip --disable-pip-version-check)
Uv=("$venv/bin/uv" pip)

get_uv() {
  if [ -x "$venv/bin/uv" ]; then return 0; fi
  "${Pip[@]}" install -qq "uv>=0.7" ||
    warn "pip could not install uv (see above); going on with pip, which is slower."
}

# with_uv ARG...: uv pip install ARG..., quietly; 1 if that fails or uv is not there.
with_uv() {
  if ! [ -x "$venv/bin/uv" ]; then return 1; fi
  "${Uv[@]}" install --quiet --python "$venv/bin/python" ${no_index[@]+"${no_index[@]}"} "$@"
}

# Print the version of an installed package, or nothing.
installed() {
  "$venv/bin/python" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' \
    "$1" 2>/dev/null || true
}

get_torch() {
  local way folder have
  have=$(installed torch)
  if [ "${have%%+*}" = "$torch_pin" ]; then
    Torch_note="torch $have was there already"
    return 0
  fi
  for way in "${torch_ways[@]}"; do
    Torch_note="torch ($way)"
    case $way in
      folder)
        for folder in "${torch_folders[@]}"; do
          # What torch itself needs comes with the next step.
          if with_uv --no-deps --offline --find-links "$folder" "torch==$torch_pin" ||
            "${Pip[@]}" install --quiet --no-deps --no-index --find-links "$folder" "torch==$torch_pin"; then
            return 0
          fi
        done
        ;;
      cpu-index)
        if with_uv --torch-backend cpu -c "$Constraints" "torch==$torch_pin"; then return 0; fi
        say "PyTorch's CPU index is not to be had here (see above); taking the ordinary build."
        ;;
      plain)
        if with_uv -c "$Constraints" "torch==$torch_pin"; then return 0; fi
        if "${Pip[@]}" install --quiet -c "$Constraints" "torch==$torch_pin"; then return 0; fi
        ;;
    esac
  done
  fail "torch $torch_pin could not be installed; the reasons stand above." \
    "Check the network or tell pip where wheels are: pip config set global.find-links FOLDER"
}

get_toolkit() {
  if with_uv -c "$Constraints" -e "$spec"; then return 0; fi
  say "uv could not install the toolkit (see above); trying with pip."
  "${Pip[@]}" install --quiet -c "$Constraints" -e "$spec" ||
    fail "installing mooer_tk$spec into $venv failed; the reasons stand above." \
      "Check the network or tell pip where packages are: pip config set global.index-url URL"
}

check_result() {
  local kind
  if [ -n "$(installed torchaudio)" ]; then
    warn "torchaudio is in $venv. mooer_tk does not need it, and one that does not match torch breaks imports."
    warn "mend: $venv/bin/python -m pip uninstall torchaudio"
  fi
  # torch/version.py is read on its own, because importing torch takes seconds.
  kind=$("$venv/bin/python" - <<'PYTHON'
import importlib.util, pathlib, runpy

folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent
build = runpy.run_path(str(folder / "version.py"))
print("cuda" if build.get("cuda") or build.get("hip") else "cpu")
PYTHON
)
  if [ $gpu = false ] && [ "$kind" = cuda ]; then
    warn "torch is a CUDA build on a machine without an NVIDIA driver. It works, but takes gigabytes more."
  elif [ $gpu = true ] && [ "$kind" = cpu ]; then
    warn "torch is a CPU build, though this machine has an NVIDIA driver: training will not use the GPU."
    warn "mend: $venv/bin/python -m pip install --force-reinstall --no-deps torch==$torch_pin from an index with CUDA builds"
  fi
  "$venv/bin/python" -c 'import mooer_tk' ||
    fail "mooer_tk was installed into $venv but cannot be imported; see above."
}

Torch_note=torch
begin_all=$SECONDS
if [ -z "$venv_version" ]; then step "virtual environment $venv (Python $version)" make_venv; fi
# From here on with the venv's pip: the Python it was made with need not have one.
python=$venv/bin/python
load_pip_settings
plan_torch
step "uv" get_uv
begin=$SECONDS
get_torch
printf 'install: %4d s  %s\n' "$((SECONDS - begin))" "$Torch_note"
step "mooer_tk, editable, extras: ${wanted:-none}" get_toolkit
step "check" check_result

printf '%s\n%s\n' "$base_hash" "$all_extras" >"$Stamp.new"
mv "$Stamp.new" "$Stamp"
say "done in $((SECONDS - begin_all)) s. Use it: . $venv/bin/activate"
