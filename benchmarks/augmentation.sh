#!/usr/bin/env bash
# Do synthetic nodules help a classifier of subtype and of malignancy? Every arm, paired seeds.
# Before it benchmarks/regularizer.sh must have trained the generators, and data/lidc be there.
# Usage: benchmarks/augmentation.sh [SEED ...]     (default seeds: 0 1 2 3 4)
set -euo pipefail
seeds=("$@")
[ $# -gt 0 ] || seeds=(0 1 2 3 4)
down=configs/downstream
synthesize=(lightning predict --config configs/ct/diffusion.yaml)
own=(--config $down/ct_synthetic.yaml)
"${synthesize[@]}" "${own[@]}" --ckpt_path runs/ct/regularized-0/checkpoints/last.ckpt
"${synthesize[@]}" "${own[@]}" --ckpt_path runs/ct/regularized-0/checkpoints/last.ckpt \
    --data.init_args.augmented_copies 1 --data.init_args.predict_every_subtype true \
    --trainer.default_root_dir runs/downstream/ct_every_subtype
"${synthesize[@]}" --config configs/ablations/ct/conditioning_only.yaml "${own[@]}" \
    --ckpt_path runs/ct/conditioning_only-0/checkpoints/last.ckpt \
    --data.init_args.augmented_copies 2 --trainer.default_root_dir runs/downstream/ct_unregularized
lightning predict --config $down/ct_copy_paste.yaml

few=(real weighted synthetic_1 weighted_synthetic copy_paste)
all=("${few[@]}" synthetic_half synthetic_2 synthetic_4 synthetic_only equal_subtypes unregularized)
for task in subtype malignancy; do
    config=(--config $down/ct_classification.yaml)
    arms=("${all[@]}")
    if [ $task = malignancy ]; then
        config+=(--config $down/ct_malignancy.yaml)
        arms=("${few[@]}")
    fi
    for seed in "${seeds[@]}"; do
        for arm in "${arms[@]}"; do
            overlay=(--config $down/augmentation/$arm.yaml)
            case $arm in
                real) overlay=() ;;
                synthetic_1) ;;
                synthetic_*) overlay=(--config $down/augmentation/synthetic_1.yaml "${overlay[@]}") ;;
            esac
            for command in fit test; do
                lightning $command "${config[@]}" "${overlay[@]}" --seed_everything "$seed" \
                    --trainer.default_root_dir "runs/downstream/$task/$arm-$seed"
            done
        done
    done
    noduleforge compare runs/downstream/$task/*-? --reference real \
        --out runs/downstream/$task/comparison
done
