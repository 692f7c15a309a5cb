#!/usr/bin/env bash
# utils/parse_options.sh: turn the variables at the top of a script into its options.
#
# Usage, in a bash script:
#   stage=1              # becomes --stage N
#   train_config=a.yaml  # becomes --train-config FILE (or --train_config FILE)
#   dry_run=false        # becomes --dry-run [true|false]; the bare word means true
#   . utils/parse_options.sh
#
# Every line of the form name=value that starts at the left margin above the line that sources this
# file is an option, if its name starts with a small letter; its value is the default. Names that
# start with a capital or an underscore are the script's own and no options.
#
# What it understands:
#   --name value, --name=value   set a variable; in names, - and _ are the same
#   --help, -h                   print the comment block that the script begins with and the options that have
#                                a comment on their line, with their defaults, and exit 0
#   --                           end of the options
# The first word that is no option ends them too, and it and the rest stay in "$@".
# An unknown option, a missing value, or something else than true or false for a variable that was
# true or false prints an error that names the script and the nearest option, and exits 2.
#
# Values are stored with printf -v and never evaluated: blanks, quotes and $(...) stay as they are.
# It works under `set -euo pipefail`. It must be sourced from the script itself, not in a function.

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  echo "parse_options.sh: source me from a script: . utils/parse_options.sh (see the comments in $0)" >&2
  exit 2
fi

_po_script=${BASH_SOURCE[1]}

# Print the names of the options: the assignments above the line that sources this file.
_po_names() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      '#'*) continue ;;
      *parse_options.sh*) break ;;
    esac
    if [[ $line =~ ^([a-z][A-Za-z0-9_]*)=([^\(]|$) ]]; then
      printf '%s\n' "${BASH_REMATCH[1]}"
    fi
  done <"$_po_script"
}

# Print the comment block at the head of the script, without the "#!" line and the "# ", and the options.
_po_help() {
  local line head=$'\nOptions, with their defaults:\n' option='^([a-z][A-Za-z0-9_]*)=([^#]*[^#[:space:]]|)[[:space:]]+# (.*)$'
  while IFS= read -r line; do
    case $line in
      '#!'*) continue ;;
      '#'*)
        line=${line#'#'}
        printf '%s\n' "${line# }"
        ;;
      *) break ;;
    esac
  done <"$_po_script"
  while IFS= read -r line || [ -n "$line" ]; do
    case $line in
      '#'*) continue ;;
      *parse_options.sh*) break ;;
    esac
    if [[ $line =~ $option ]]; then
      printf '%s  --%-40s %s\n' "$head" "${BASH_REMATCH[1]//_/-} ${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
      head=
    fi
  done <"$_po_script"
}

# _po_distance A B: print how many letters to change, add or drop to make B of A.
_po_distance() {
  local a=$1 b=$2 i j cost best diagonal
  local -a row
  for ((j = 0; j <= ${#b}; j++)); do row[j]=$j; done
  for ((i = 1; i <= ${#a}; i++)); do
    diagonal=${row[0]}
    row[0]=$i
    for ((j = 1; j <= ${#b}; j++)); do
      cost=1
      if [ "${a:i-1:1}" = "${b:j-1:1}" ]; then cost=0; fi
      best=$((diagonal + cost))
      if ((row[j] + 1 < best)); then best=$((row[j] + 1)); fi
      if ((row[j - 1] + 1 < best)); then best=$((row[j - 1] + 1)); fi
      diagonal=${row[j]}
      row[j]=$best
    done
  done
  printf '%s\n' "${row[${#b}]}"
}

# _po_nearest NAME: print the known option that is most like NAME.
_po_nearest() {
  local name nearest="" best=1000 distance
  for name in "${_po_known[@]}"; do
    distance=$(_po_distance "$1" "$name")
    if [[ $name == "$1"* ]]; then distance=0; fi
    if ((distance < best)); then
      best=$distance
      nearest=$name
    fi
  done
  printf '%s\n' "$nearest"
}

# _po_is_known NAME: whether the script has an option NAME.
_po_is_known() {
  local name
  for name in ${_po_known[@]+"${_po_known[@]}"}; do
    if [ "$name" = "$1" ]; then return 0; fi
  done
  return 1
}

_po_fail() {
  printf '%s: %s\n' "$(basename "$_po_script")" "$1" >&2
  printf '  %s --help lists the options.\n' "$_po_script" >&2
  exit 2
}

_po_known=()
while IFS= read -r _po_name; do
  _po_known+=("$_po_name")
done < <(_po_names)

while [ $# -gt 0 ]; do
  case $1 in
    --help | -h)
      _po_help
      exit 0
      ;;
    --)
      shift
      break
      ;;
    --?*) ;;
    *) break ;;
  esac

  _po_name=${1#--}
  _po_name=${_po_name%%=*}
  _po_name=${_po_name//-/_}
  if ! _po_is_known "$_po_name"; then
    if [ "${#_po_known[@]}" -eq 0 ]; then
      _po_fail "unknown option ${1%%=*}: this script has no options but --help."
    fi
    _po_near=$(_po_nearest "$_po_name")
    _po_fail "unknown option ${1%%=*}. Did you mean --${_po_near//_/-}?"
  fi

  _po_old=${!_po_name-}
  _po_bool=false
  if [ "$_po_old" = true ] || [ "$_po_old" = false ]; then _po_bool=true; fi

  if [[ $1 == *=* ]]; then
    _po_value=${1#*=}
    shift
  elif [ $_po_bool = true ] && [ "${2-}" != true ] && [ "${2-}" != false ]; then
    _po_value=true
    shift
  elif [ $# -lt 2 ]; then
    _po_fail "option $1 needs a value: write $1 VALUE or $1=VALUE."
  else
    if [[ $2 == --?* ]]; then
      _po_next=${2#--}
      _po_next=${_po_next%%=*}
      if _po_is_known "${_po_next//-/_}"; then
        _po_fail "option $1 needs a value, but the option $2 follows. If $2 is the value, write $1=$2."
      fi
    fi
    _po_value=$2
    shift 2
  fi

  if [ $_po_bool = true ] && [ "$_po_value" != true ] && [ "$_po_value" != false ]; then
    _po_fail "option --${_po_name//_/-} takes true or false, not '$_po_value'."
  fi
  printf -v "$_po_name" '%s' "$_po_value"
done

unset _po_script _po_known _po_name _po_near _po_old _po_bool _po_value _po_next
unset -f _po_names _po_help _po_distance _po_nearest _po_is_known _po_fail
true
