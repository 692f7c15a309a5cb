#!/usr/bin/env bash
# mooer.sh: the road from a corpus to a row of results, in ten stages. Called by every recipe's run.sh.
#
#   0 download            models, and the corpus through local/download.sh
#   1 data directories    local/data.sh writes data/<lang>/{train,dev,test}; they are validated
#   2 pseudo-labels       a teacher transcribes and translates them: data/<lang>/<set>_pl, with a report
#   3 features            TTS speech; encoder states of everything, in shards under dump/
#   4 adapter warm start  CTC of the adapter against the LLM's own token embeddings
#   5 adapter + LoRA      through the LLM: ASR, AST and both at once
#   6 average and export  one model directory: exp/<tag>/model
#   7 decode              the test sets, with the model and with the warm start alone
#   8 score               WER, BLEU and chrF with 95 % intervals; the teacher beside them
#   9 results             rows of RESULTS.md, and the table on the terminal
#
# Usage, in a recipe's directory: ./run.sh [--stage N] [--stop-stage N] [--option value ...]
# Every finished stage is recognised and passed over; a killed one goes on where it was.

set -euo pipefail

# General.
stage=0           # first stage to run
stop_stage=9      # last stage to run
nj=2              # parallel jobs where a stage can use them
cmd=              # launcher: utils/run.sh, utils/slurm.sh or utils/sge.sh (default: see cmd.sh)
tag=mooer         # the experiment is exp/<tag>
config=conf/mooer.yaml  # encoder, adapter, LLM, training, decoding
set=              # overrides of the config, such as "train.steps=100 decode.beam=1"

# Data.
asr_langs=en      # languages that are transcribed
ast_langs=        # languages that are translated to English
labels=pseudo     # what is trained on: pseudo (the paper's setting) or human
teacher=whisper-base  # who writes the pseudo-labels
tts_utts=0        # synthetic sentences beside the corpus; 0 for none
asr_weight=1      # passes over an ASR utterance for one over a TTS sentence
ast_weight=1      # the same for AST utterances
both_weight=0     # the same for transcribing and translating in one answer
tts_weight=1      # share of the TTS sentences that a pass of stage 5 takes; stage 4 takes them all
max_utts=0       # utterances of each set; 0 takes all (for tests)
dump=dump         # where encoder states are kept; another encoder needs another place
max_skip=0.05     # share of unusable utterances that stops a stage
normaliser=whisper-en # of both sides when English text is scored by WER

# Training.
warm_start=true   # false: the adapter starts at random, as in the paper
average=3         # checkpoints averaged, best dev scores first
train_cmd=mooer   # what runs `train`; in 8 processes: "torchrun --standalone --nproc-per-node 8 -m mooer_tk.bin.main"

. ./path.sh
. ./cmd.sh
invocation="../../TEMPLATE/mooer/${0##*/}$(printf ' %q' "$@")"
. "$MOOER_ROOT/utils/parse_options.sh"

launcher=${cmd:-$MOOER_CMD}
read -r -a overrides <<<"$set"
read -r -a trainer <<<"$train_cmd"
exp=exp/$tag
langs="$asr_langs $ast_langs"
. "$MOOER_ROOT/utils/stages.sh"
case $labels in pseudo) suffix=_pl ;; human) suffix= ;; *) die "--labels is pseudo or human, not '$labels'" ;; esac
[ -f "$config" ] || die "no config $config; name one with --config"
for lang in $langs; do
  [[ $lang =~ ^[a-z]{2,3}$ ]] || die "'$lang' is no language code such as en or es"
done
# A mistake in the config shows now, not after hours.
values=$(mooer config "$config" --set ${overrides[@]+"${overrides[@]}"} --get decode.ctc_weight encoder.model llm.model)
read -r ctc_weight encoder llm <<<"$values"
# Where CTC and LLM search together, transcripts of the LLM alone are scored beside theirs.
joint=false
if [ "$warm_start" = true ] && [ "$ctc_weight" != 0.0 ]; then joint=true; fi
mkdir -p "$exp"

if begin 0 "download"; then
  # What is a directory, such as a U2++ model of another recipe, is here already.
  wanted=("$llm")
  [ -d "$encoder" ] || wanted+=("$encoder")
  [ -d "$teacher" ] || wanted+=("teacher:$teacher")
  "$MOOER_ROOT/tools/fetch.py" "${wanted[@]}"
  local/download.sh --langs "$langs" --tts-utts "$tts_utts"
fi

if begin 1 "data directories"; then
  local/data.sh --langs "$langs" --tts-utts "$tts_utts" --max-utts "$max_utts"
  for lang in $langs; do
    for part in train dev test; do
      "$MOOER_ROOT/utils/validate_data_dir.sh" "data/$lang/$part"
    done
  done
fi

if begin 2 "pseudo-labels by $teacher"; then
  for lang in $langs; do
    tasks=asr
    if [[ " $ast_langs " == *" $lang "* ]]; then tasks="asr ast"; fi
    for part in train dev test; do
      # shellcheck disable=SC2086  # tasks are two words on purpose
      tee_log label mooer label "data/$lang/$part" "data/$lang/${part}_pl" \
        --teacher "$teacher" --language "$lang" --tasks $tasks --max-skip "$max_skip"
      "$MOOER_ROOT/utils/label_report.py" "data/$lang/$part" "data/$lang/${part}_pl"
      cat "data/$lang/${part}_pl/report.md" >>"$exp/log/label_reports.md"
    done
  done
fi

if begin 3 "TTS speech and encoder states"; then
  pairs=()
  if [ "$tts_utts" -gt 0 ]; then
    tee_log tts "$MOOER_ROOT/utils/synthesise_speech.py" data/tts/text data/tts/speech --nj "$nj"
    "$MOOER_ROOT/utils/validate_data_dir.sh" data/tts/speech
    pairs+=(data/tts/speech "$dump/tts")
  fi
  for lang in $langs; do
    for part in train dev test; do
      pairs+=("data/$lang/$part" "$dump/$lang/$part")
    done
  done
  states --config "$config" --set ${overrides[@]+"${overrides[@]}"} --max-skip "$max_skip" -- "${pairs[@]}"
fi

# What is trained on, and what the dev scores are taken from (human text: it is there for scoring).
sources=()
dev=()
for lang in $asr_langs; do
  sources+=(--source "asr:$dump/$lang/train:data/$lang/train$suffix/text:$asr_weight")
  dev+=(--dev "asr:$dump/$lang/dev:data/$lang/dev/text")
done
for lang in $ast_langs; do
  tables="data/$lang/train$suffix/text+data/$lang/train$suffix/text.en"
  sources+=(--source "ast:$dump/$lang/train:$tables:$ast_weight")
  if [ "$both_weight" != 0 ]; then sources+=(--source "asr_ast:$dump/$lang/train:$tables:$both_weight"); fi
  dev+=(--dev "ast:$dump/$lang/dev:data/$lang/dev/text+data/$lang/dev/text.en")
done
train_options=(--config "$config" --set ${overrides[@]+"${overrides[@]}"} "${sources[@]}" "${dev[@]}" --max-skip 0.15)
# tts WEIGHT: the source of synthetic sentences, if there are any.
tts() { if [ "$tts_utts" -gt 0 ]; then printf '%s\n' --source "asr:$dump/tts:data/tts/speech/text:$1"; fi; }

if [ "$warm_start" = true ] && begin 4 "adapter warm start"; then
  mapfile -t synthetic < <(tts 1)
  tee_log warm_start "${trainer[@]}" train warm_start --out "$exp/warm_start" "${train_options[@]}" "${synthetic[@]}"
  plot loss "$exp/warm_start"
fi

if begin 5 "adapter + LoRA"; then
  init=()
  if [ "$warm_start" = true ]; then init=(--init "$exp/warm_start/adapter.safetensors"); fi
  mapfile -t synthetic < <(tts "$tts_weight")
  tee_log train "${trainer[@]}" train instruct --out "$exp/train" ${init[@]+"${init[@]}"} "${train_options[@]}" "${synthetic[@]}"
  plot loss "$exp/train"
  if [ -f "$exp/train/expert_load.tsv" ]; then plot experts "$exp/train"; fi
fi

if begin 6 "average and export"; then
  mooer average "$exp/train" "$exp/model" --best "$average"
fi

if begin 7 "decode"; then
  decode_options=(--set ${overrides[@]+"${overrides[@]}"})
  for lang in $asr_langs; do
    tee_log decode mooer decode "$dump/$lang/test" "$exp/decode/asr_$lang" --task asr --model "$exp" "${decode_options[@]}"
    if [ "$warm_start" = true ]; then
      tee_log decode mooer decode "$dump/$lang/test" "$exp/decode/ctc_$lang" --warm-start "$exp/warm_start"
    fi
    if [ "$joint" = true ]; then
      tee_log decode mooer decode "$dump/$lang/test" "$exp/decode/llm_$lang" --task asr --model "$exp" \
        "${decode_options[@]}" decode.ctc_weight=0
    fi
  done
  for lang in $ast_langs; do
    tee_log decode mooer decode "$dump/$lang/test" "$exp/decode/ast_$lang" --task ast --model "$exp" "${decode_options[@]}"
  done
fi

if begin 8 "score"; then
  with_errors=()
  # score NAME REF HYP METRIC NORMALISER
  score() {
    mooer score --ref "$2" --hyp "$3" --metric "$4" --normaliser "$5" --out "$exp/score/$1" --tolerate-missing
    if [ "$4" = wer ]; then with_errors+=("$exp/score/$1"); fi
  }
  for lang in $asr_langs; do
    score "asr_$lang.model" "data/$lang/test/text" "$exp/decode/asr_$lang/hyp" wer "$normaliser"
    score "asr_$lang.teacher" "data/$lang/test/text" "data/$lang/test_pl/text" wer "$normaliser"
    if [ "$warm_start" = true ]; then
      score "asr_$lang.ctc" "data/$lang/test/text" "$exp/decode/ctc_$lang/hyp" wer "$normaliser"
    fi
    if [ "$joint" = true ]; then
      score "asr_$lang.llm" "data/$lang/test/text" "$exp/decode/llm_$lang/hyp" wer "$normaliser"
    fi
  done
  for lang in $ast_langs; do
    score "ast_$lang.model" "data/$lang/test/text.en" "$exp/decode/ast_$lang/hyp" bleu none
    score "ast_$lang.teacher" "data/$lang/test/text.en" "data/$lang/test_pl/text.en" bleu none
  done
  if [ ${#with_errors[@]} -gt 0 ]; then plot errors "${with_errors[@]}"; fi
fi

if begin 9 "results"; then
  "$MOOER_ROOT/utils/update_results.py" "$exp" --results RESULTS.md --labels "$labels" --command "$invocation"
fi
end_stage

cat >&2 <<END

model     $PWD/$exp/model
logs      $PWD/$exp/log
pictures  $PWD/$exp/train/loss.png (and error_by_length.png under $PWD/$exp/score)
try it    mooer transcribe FILE --model $PWD/$exp
END
