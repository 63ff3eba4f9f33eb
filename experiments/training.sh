# What the experiments share: sourced by them, not run.

LAUNCH=${LAUNCH:-accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no}
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 MALLOC_TOP_PAD_=67108864

# train CONFIG OUTPUT [section.key=value ...]: unless it is done
train() {
    config=$1; output=$2; shift 2
    if [ -f "$output/done" ]; then return; fi
    resume=false
    if [ -f "$output/last/step.json" ]; then resume=true; else rm -rf "$output"; fi
    $LAUNCH train.py --config "configs/$config.yaml" train.output="$output" train.resume=$resume "$@"
    touch "$output/done"
}
