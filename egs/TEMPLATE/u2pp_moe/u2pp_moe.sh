#!/usr/bin/env bash
# u2pp_moe.sh: from a corpus to a streaming recogniser with experts, in ten stages. Called by every recipe's run.sh.
#
#   0 download            the corpus, through local/download.sh
#   1 data directories    local/data.sh writes them; they are validated
#   2 labels              human text as it is, or a teacher's (--labels pseudo): <set>_pl, with a report
#   3 shards and units    TTS speech; audio in shards under dump/; characters or pieces to write with
#   4 dense model         U2++: CTC and two decoders, chunks of all sizes
#   5 UME                 the dense model grows experts and trains them alone; beside it what this must be measured
#                         against: the dense model trained on for the same steps, and with --scratch true experts
#                         from nothing, for the steps of both
#   6 average and export  exp/<tag>/{dense,ume,dense_on,scratch}/model
#   7 decode              four searches, full context and chunks
#   8 score               error rates with 95 % intervals, and the systems compared pair by pair
#   9 results             rows of RESULTS.md, and the table on the terminal
#
# Usage, in a recipe's directory: ./run.sh [--stage N] [--stop-stage N] [--option value ...]
# Every finished stage is recognised and passed over; a killed one goes on where it was.

set -euo pipefail

# General.
stage=0           # first stage to run
stop_stage=9      # last stage to run
cmd=              # launcher: utils/run.sh, utils/slurm.sh or utils/sge.sh (default: see cmd.sh)
nj=2              # jobs that synthesise speech and write shards
tag=u2pp          # the experiments are exp/<tag>/...
config=conf/dense.yaml  # the dense model and its training
more_config=conf/more.yaml  # training of what starts from the dense model
set=              # overrides of both configs, such as "train.data.workers=4"

# Data.
train_sets="train:1"  # directories below data/, and how often a pass sees an utterance of each
dev_set=dev       # the directory that chooses checkpoints
test_sets="test"  # directories that are decoded and scored
labels=human      # what is trained on: human text, or pseudo-labels by a teacher
teacher=whisper-base  # who writes them: Whisper, or a U2++ model (exp/NAME)
language=en       # of the speech, for the teacher
tts_utts=0        # synthetic sentences of data/tts, for recipes that have them; 0 for none
max_utts=0        # utterances of each set; 0 takes all (for tests)
max_skip=0.05     # share of unusable utterances that stops a stage
pieces=0          # sentencepiece's pieces; 0 writes characters

# Experts.
experts=8         # in place of every feed-forward layer
top_k=2           # of them for a frame
systems="dense ume dense_on"  # what is trained, decoded and scored; a model with experts from the start is one dense
balance=0.01      # weight of the balance loss (UME balances; U2++ MoE does not: 0)
noise=0.0         # on the routers' logits in training
scratch=false     # train experts from nothing as well; that takes longer than all the rest

# Decoding and scoring.
average=3         # checkpoints averaged, best dev scores first
modes="ctc_greedy ctc_prefix_beam attention attention_rescoring"  # searches; the last one compares systems
chunks="full 16"  # encoder frames (40 ms) heard at once
metric=wer        # wer or cer
normaliser=target-en  # of both sides, by `mooer score --help`
train_cmd=mooer   # what runs `train`; in 8 processes: "torchrun --standalone --nproc-per-node 8 -m mooer_tk.bin.main"

. ./path.sh
. ./cmd.sh
invocation="../../TEMPLATE/u2pp_moe/${0##*/}$(printf ' %q' "$@")"
. "$MOOER_ROOT/utils/parse_options.sh"

read -r -a overrides <<<"$set"
read -r -a trainer <<<"$train_cmd"
exp=exp/$tag
launcher=${cmd:-$MOOER_CMD}
. "$MOOER_ROOT/utils/stages.sh"

case $labels in pseudo) suffix=_pl ;; human) suffix= ;; *) die "--labels is pseudo or human, not '$labels'" ;; esac
for file in "$config" "$more_config"; do [ -f "$file" ] || die "no config $file"; done
dirs=("$dev_set")
for one in $train_sets; do dirs+=("${one%%:*}"); done
read -r -a tests <<<"$test_sets"
read -r -a chosen <<<"$systems"
if [ "$scratch" = true ]; then chosen+=(scratch); fi
# has SYSTEM: whether it is one of those.
has() { [[ " ${chosen[*]} " == *" $1 "* ]]; }
for one in "${chosen[@]}"; do
  case $one in dense | ume | dense_on | scratch) ;; *) die "--systems are dense, ume, dense_on and scratch, not '$one'" ;; esac
done
mkdir -p "$exp"

if begin 0 "download"; then
  local/download.sh --langs "$language" --tts-utts "$tts_utts"
fi

if begin 1 "data directories"; then
  local/data.sh --langs "$language" --tts-utts "$tts_utts" --max-utts "$max_utts"
fi

if begin 2 "labels ($labels)"; then
  if [ "$labels" = pseudo ]; then
    for dir in "${dirs[@]}"; do
      [[ $dir == tts/* ]] && continue
      tee_log label mooer label "data/$dir" "data/${dir}_pl" --teacher "$teacher" --language "$language" --max-skip "$max_skip"
      "$MOOER_ROOT/utils/label_report.py" "data/$dir" "data/${dir}_pl"
    done
  fi
fi

# text_of DIR: the text that is trained on; that of synthetic speech is what was spoken.
text_of() { if [[ $1 == tts/* ]]; then echo "data/$1/text"; else echo "data/$1$suffix/text"; fi; }

if begin 3 "shards and units"; then
  if [ "$tts_utts" -gt 0 ]; then
    tee_log tts "$MOOER_ROOT/utils/synthesise_speech.py" data/tts/text data/tts/speech --nj "$nj"
  fi
  pairs=() texts=()
  while IFS= read -r dir; do
    "$MOOER_ROOT/utils/validate_data_dir.sh" "data/$dir"
    pairs+=("data/$dir" "dump/$dir")
  done < <(printf '%s\n' "${dirs[@]}" "${tests[@]}" | sort -u)
  states --audio --max-skip "$max_skip" -- "${pairs[@]}"
  for dir in "${dirs[@]:1}"; do texts+=("$(text_of "$dir")"); done
  mkdir -p data/units
  if [ "$pieces" -gt 0 ]; then
    "$MOOER_ROOT/utils/make_units.py" data/units/units.model "${texts[@]}" --pieces "$pieces"
  else
    "$MOOER_ROOT/utils/make_units.py" data/units/units.txt "${texts[@]}"
  fi
fi

units=data/units/units.txt
if [ "$pieces" -gt 0 ]; then units=data/units/units.model; fi
sources=(--dev "asr:dump/$dev_set:data/$dev_set/text" --max-skip 0.1)
for one in $train_sets; do
  dir=${one%%:*} weight=1
  if [[ $one == *:* ]]; then weight=${one##*:}; fi
  sources+=(--source "asr:dump/$dir:$(text_of "$dir"):$weight")
done

# train SYSTEM CONFIG OPTION ...: train exp/<tag>/SYSTEM, and draw its curves.
train() {
  local system=$1 conf=$2
  shift 2
  tee_log "$system" "${trainer[@]}" train u2pp --out "$exp/$system/train" --config "$conf" "${sources[@]}" "$@"
  plot loss "$exp/$system/train"
  if [ -f "$exp/$system/train/expert_load.tsv" ]; then plot experts "$exp/$system/train"; fi
}

# export_model SYSTEM: average its checkpoints. The dense model is needed as soon as it is trained.
export_model() { mooer average "$exp/$1/train" "$exp/$1/model" --best "$average"; }

if begin 4 "dense model"; then
  train dense "$config" --set "model.units=$units" ${overrides[@]+"${overrides[@]}"}
fi

if begin 5 "UME: experts grow out of the dense model"; then
  if has ume || has dense_on; then export_model dense; fi
  if has ume; then
    mooer upcycle --from "$exp/dense" --out "$exp/ume/start" --experts "$experts" --top-k "$top_k" --balance "$balance" --noise "$noise"
    train ume "$more_config" --init-model "$exp/ume/start" --set loss.freeze=true ${overrides[@]+"${overrides[@]}"}
  fi
  if has dense_on; then train dense_on "$more_config" --init-model "$exp/dense" --set ${overrides[@]+"${overrides[@]}"}; fi
  if has scratch; then
    steps=0
    for one in "$config" "$more_config"; do
      steps=$((steps + $(mooer config "$one" --set ${overrides[@]+"${overrides[@]}"} --get train.steps)))
    done
    train scratch "$config" --set "model.units=$units" "model.moe.experts=$experts" "model.moe.top_k=$top_k" \
      "model.moe.balance=$balance" "model.moe.noise=$noise" ${overrides[@]+"${overrides[@]}"} "train.steps=$steps"
  fi
fi

if begin 6 "average and export"; then
  for system in "${chosen[@]}"; do export_model "$system"; done
fi

# Of --set, what is of the search.
search=()
for one in ${overrides[@]+"${overrides[@]}"}; do
  if [[ $one == decode.* ]]; then search+=("$one"); fi
done

if begin 7 "decode"; then
  for system in "${chosen[@]}"; do
    for dir in "${tests[@]}"; do
      for chunk in $chunks; do
        tee_log decode mooer decode "dump/$dir" "$exp/$system/decode/${dir//\//_}.$chunk" --model "$exp/$system" --nbest 5 \
          --set "decode.modes=[${modes// /,}]" "decode.chunk=${chunk/full/-1}" ${search[@]+"${search[@]}"}
      done
    done
  done
fi

if begin 8 "score"; then
  for dir in "${tests[@]}"; do
    name=${dir//\//_}
    for system in "${chosen[@]}"; do
      for chunk in $chunks; do
        for mode in $modes; do
          mooer score --ref "data/$dir/text" --hyp "$exp/$system/decode/$name.$chunk/$mode/hyp" --metric "$metric" \
            --normaliser "$normaliser" --out "$exp/$system/score/$name.$mode-$chunk" --tolerate-missing
        done
      done
    done
    # Is UME better than each of the others? All of them by the last of the searches, with the first size of chunks.
    best=decode/$name.${chunks%% *}/${modes##* }/hyp
    for system in "${chosen[@]}"; do
      if [ "$system" = ume ] || ! has ume; then continue; fi
      printf '\n%s -> ume, %s\n' "$system" "$name"
      "$MOOER_ROOT/utils/compare_systems.py" --ref "data/$dir/text" --a "$exp/$system/$best" --b "$exp/ume/$best" \
        --metric "$metric" --normaliser "$normaliser" --tolerate-missing
    done | tee "$exp/compare_$name.txt"
  done
fi

if begin 9 "results"; then
  for system in "${chosen[@]}"; do
    "$MOOER_ROOT/utils/update_results.py" "$exp/$system" --results RESULTS.md --labels "$labels" --command "$invocation"
  done
fi
end_stage

cat >&2 <<END

models    $PWD/$exp/{${chosen[*]}}
logs      $PWD/$exp/log
pictures  $PWD/$exp/*/train/loss.png, $PWD/$exp/*/train/expert_load.png
try it    mooer transcribe FILE --stream --model $PWD/$exp/${chosen[0]}
END
