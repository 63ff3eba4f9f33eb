#!/bin/sh
# Penn Treebank, sentence by sentence: a VAE beside the language model that both continue, one row a seed.
#   sh experiments/ptb.sh FOLDER [SEEDS]
# FOLDER holds ptb.train.txt, ptb.valid.txt and ptb.test.txt. What exists in data/ and runs/ is kept, so a broken
# experiment goes on where it stopped. LAUNCH starts training, e.g. LAUNCH="accelerate launch --num_processes 8".
set -eu
. "$(dirname "$0")/training.sh"
SOURCE=$1
SEEDS=${2:-1 2 3}

# score RUN NAME [option ...]: the test split, unless it is done
score() {
    run=$1; name=$2; shift 2
    if [ -f "$run/$name.json" ]; then return; fi
    python eval/perplexity.py --model "$run" --data data/ptb --split test --out "$run/$name.json" "$@"
}

if [ ! -f data/ptb/textvae_data.json ]; then
    rm -rf data/ptb data/ptb-jsonl data/ptb-words
    python data_prep/ptb.py "$SOURCE" --out data/ptb-jsonl
    python data_prep/train_tokenizer.py data/ptb-jsonl --out data/ptb-words --kind words --size 10002 --hierarchy sentence
    textvae prepare data/ptb-jsonl --out data/ptb --hierarchy sentence --decoder data/ptb-words \
        --max-sentence-tokens 256 --cache-features
fi
train ptb-lm runs/ptb-lm
ALL=""
for seed in $SEEDS; do
    lm=runs/ptb-lm-continued-$seed
    vae=runs/ptb-$seed
    train ptb-lm-continued "$lm" train.seed="$seed"
    train ptb-topics "runs/ptb-topics-$seed" train.seed="$seed"
    train ptb "$vae" train.seed="$seed" train.start_from="runs/ptb-topics-$seed"
    score "$lm" test
    score "$vae" test --estimator iwae --samples 500
    if [ ! -f "$vae/latents.json" ]; then
        python eval/latents.py --model "$vae" --data data/ptb --split test --out "$vae/latents.json"
    fi
    ALL="$ALL $lm $vae"
done
python eval/compare.py $ALL --perplexity test.json
