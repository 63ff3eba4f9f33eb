#!/bin/sh
# The Wikipedia experiment: every arm of one context continues one language model for the same tokens on the same schedule.
#   sh experiments/wiki.sh SOURCE [SIZE] [SEEDS]
# SOURCE: a folder (or any other source) with the splits train, validation and test. SIZE: small (a CPU, hours) or
# full (a GPU). SEEDS: "1 2 3" for the language model, the three-level model and the flat document model; the other
# arms run with the first. What exists in runs/ is kept, so a broken experiment goes on where it stopped.
# LAUNCH starts training, e.g. LAUNCH="accelerate launch --num_processes 8".
set -eu
. "$(dirname "$0")/training.sh"
SOURCE=$1
SIZE=${2:-small}
SEEDS=${3:-1}
DATA=data/wiki-$SIZE
RUNS=runs/wiki-$SIZE
case $SIZE in
    small) PREPARE="--limit 1500 --vocabulary-size 4096"; WIDE=32; NARROW=8 ;;
    full) PREPARE="--vocabulary-size 16384"; WIDE=64; NARROW=32 ;;
    *) echo "SIZE is '$SIZE'; it must be small or full" >&2; exit 2 ;;
esac

# The language model that arms start from. Those whose sentences see the document have one of their own, which has seen
# half of the sentences before, at random.
BASE=$RUNS-lm
WIDE_BASE=$RUNS-lm-wide

# continued NAME SEED [section.key=value ...]: the language model for the tokens that a VAE gets
continued() {
    name=$1; seed=$2; shift 2
    train "wiki-$SIZE-lm-continued" "$RUNS-$name-$seed" model.decoder.name="$BASE" train.seed="$seed" "$@"
}

# vae NAME SEED LEVELS RATES [section.key=value ...]: topics first, then with the decoder. RATES: `kept` steers sentences
# to a rate of their own once the decoder runs, as wiki-$SIZE does; `free` leaves every level to beta = 1. Arms of the same
# levels and language model share their topics.
vae() {
    name=$1; seed=$2; levels=""; ramps=""; policies=""
    for level in $3; do
        case $level in
            document) size=$WIDE; times="start: 0.5, end: 0.95" ;;
            paragraph) size=$NARROW; times="start: 0.1, end: 0.5" ;;
            sentence) size=$NARROW; times="start: 0.02, end: 0.3" ;;
        esac
        target=""
        if [ "$4,$level" = kept,sentence ]; then target=", target_rate: 2.2"; fi
        levels="$levels{name: $level, latent_size: $size}, "
        ramps="$ramps$level: {anneal: linear, $times}, "
        policies="$policies$level: {anneal: constant$target}, "
    done
    topics="$BASE-topics-$(echo "$3" | tr " " -)-$seed"
    shift 4
    set -- model.decoder.name="$BASE" train.seed="$seed" "$@"
    train "wiki-$SIZE-topics" "$topics" "model.levels=[$levels]" "objective.levels={$ramps}" "$@"
    train "wiki-$SIZE" "$RUNS-$name-$seed" "model.levels=[$levels]" "objective.levels={$policies}" \
        train.start_from="$topics" "$@"
}

# score RUN: all documents by the ELBO, 40 by smc (a language model is exact), latents
score() {
    case $1 in *-lm-*) bound="elbo" ;; *) bound="smc --samples 32" ;; esac
    for split in validation test; do
        if [ ! -f "$1/$split.json" ]; then
            python eval/perplexity.py --model "$1" --data "$DATA" --split $split --out "$1/$split.json"
        fi
    done
    if [ ! -f "$1/smc.json" ]; then
        python eval/perplexity.py --model "$1" --data "$DATA" --limit 40 --estimator $bound --out "$1/smc.json"
    fi
    case $1 in *-lm-*) return ;; esac
    if [ ! -f "$1/latents.json" ]; then
        python eval/latents.py --model "$1" --data "$DATA" --limit 200 --out "$1/latents.json"
    fi
}

if [ ! -f "$DATA/textvae_data.json" ]; then
    rm -rf "$DATA"
    textvae prepare "$SOURCE" --out "$DATA" --max-document-sentences 32 --num-proc 2 --cache-features $PREPARE
fi
train "wiki-$SIZE-lm" "$BASE"
ALL=""
for seed in $SEEDS; do
    continued lm-sentence "$seed"
    vae three "$seed" "document paragraph sentence" kept
    vae three-free "$seed" "document paragraph sentence" free
    vae flat "$seed" "document" free
    ALL="$ALL $RUNS-lm-sentence-$seed $RUNS-three-$seed $RUNS-three-free-$seed $RUNS-flat-$seed"
done
first=${SEEDS%% *}
vae two "$first" "document sentence" free
vae sentence "$first" "sentence" free
train "wiki-$SIZE-lm" "$WIDE_BASE" model.decoder.context=document model.decoder.context_dropout=0.5
BASE=$WIDE_BASE
continued lm-document "$first" model.decoder.context=document
vae three-document "$first" "document paragraph sentence" kept model.decoder.context=document
ALL="$ALL $RUNS-two-$first $RUNS-sentence-$first $RUNS-lm-document-$first $RUNS-three-document-$first"
for run in $ALL; do score "$run"; done
for split in validation test smc; do python eval/compare.py $ALL --perplexity $split.json; done
