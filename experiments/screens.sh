#!/bin/sh
# Short runs that vary one thing each: what wiki.sh's three-level model owes to its parts, and a rate-distortion curve per
# level. Run experiments/wiki.sh WIKI small first: its data, language model and warm start are used.
#   sh experiments/screens.sh [SCREEN ...]
# No SCREEN means all; LAUNCH as in wiki.sh.
set -eu
. "$(dirname "$0")/training.sh"
DATA=data/wiki-small
RUNS=runs/screen
TOPICS=runs/wiki-small-lm-topics-document-paragraph-sentence-1
# Every level at beta = 1, half of wiki-small's steps.
SHORT="train.steps=200 train.validate_every=200"
FREE="objective.levels={}"

# decoded NAME [section.key=value ...]: from the warm start of wiki-small
decoded() {
    name=$1; shift
    train wiki-small "$RUNS-$name" $SHORT train.start_from="$TOPICS" "$FREE" "$@"
    score "$name"
}

# both NAME [section.key=value ...]: a warm start of its own, for what changes the latents
both() {
    name=$1; shift
    train wiki-small-topics "$RUNS-topics-$name" "$@"
    train wiki-small "$RUNS-$name" $SHORT train.start_from="$RUNS-topics-$name" "$FREE" "$@"
    score "$name"
}

# steered LEVEL NATS: the warm start of wiki-small goes on with one level steered to so many nats a unit, then the decoder
steered() {
    policy="{$1: {anneal: constant, target_rate: $2, controller_gain: 0.05}}"
    train wiki-small-topics "$RUNS-topics-$1-$2" train.steps=200 objective.default.anneal=constant \
        "objective.levels=$policy" train.start_from="$TOPICS"
    train wiki-small "$RUNS-$1-$2" $SHORT train.start_from="$RUNS-topics-$1-$2" "objective.levels=$policy"
    score "$1-$2"
}

score() {
    if [ ! -f "$RUNS-$1/perplexity.json" ]; then
        python eval/perplexity.py --model "$RUNS-$1" --data $DATA --limit 200 --out "$RUNS-$1/perplexity.json"
    fi
}

independent() { echo "model.levels.$1.prior=independent"; }
blind() { echo "model.levels.$1.posterior_sees_ancestors=false"; }

screen() {
    case $1 in
        base) decoded base ;;
        embedding) both embedding model.decoder.conditioning=embedding ;;
        logits) both logits model.decoder.conditioning=none ;;
        prefix) both prefix model.decoder.prefix_length=4 ;;
        without-words) both without-words model.encoder.words=false ;;
        independent-priors) both independent-priors $(independent paragraph) $(independent sentence) ;;
        posterior-without-ancestors) both posterior-without-ancestors $(blind paragraph) $(blind sentence) ;;
        half-size) both half-size model.levels.document.latent_size=16 model.levels.paragraph.latent_size=4 \
            model.levels.sentence.latent_size=4 ;;
        double-size) both double-size model.levels.document.latent_size=64 model.levels.paragraph.latent_size=16 \
            model.levels.sentence.latent_size=16 ;;
        word-dropout) decoded word-dropout model.decoder.word_dropout=0.2 ;;
        bag-of-words) decoded bag-of-words objective.bag_of_words=0.1 ;;
        free-bits) decoded free-bits objective.default.free_bits=0.3 ;;
        balanced) decoded balanced objective.balance_until=0.5 objective.default.anneal=linear \
            objective.default.start=0 objective.default.end=0.5 ;;
        cyclical) decoded cyclical objective.default.anneal=cyclical objective.default.start=0 ;;
        *-*) steered "${1%-*}" "${1##*-}" ;;
        *) echo "there is no screen '$1'" >&2; exit 2 ;;
    esac
}

SCREENS=${*:-base embedding logits prefix without-words independent-priors posterior-without-ancestors half-size \
    double-size word-dropout bag-of-words free-bits balanced cyclical \
    document-5 document-10 document-40 paragraph-1 paragraph-6 paragraph-10 sentence-1 sentence-4 sentence-8}
ALL=""
for name in $SCREENS; do
    screen "$name"
    ALL="$ALL $RUNS-$name"
done
python eval/compare.py $ALL
