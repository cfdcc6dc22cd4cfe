#!/usr/bin/env bash
# Regularizer against conditioning only on real nodules: same data, same seeds, paired.
# Usage: benchmarks/regularizer.sh LIDC_FOLDER [SEED ...]     (default seeds: 0 1 2)
set -euo pipefail
root=$1
shift
seeds=("$@")
[ $# -gt 0 ] || seeds=(0 1 2)
stage1=runs/ct/autoencoder
lightning fit --config configs/ct/autoencoder.yaml --data.init_args.root "$root"
lightning test --config configs/ct/autoencoder.yaml --data.init_args.root "$root" \
    --model.init_args.roi.size 32
for seed in "${seeds[@]}"; do
    for arm in regularized conditioning_only; do
        overlay=()
        [ $arm = regularized ] || overlay=(--config configs/ablations/ct/$arm.yaml)
        for stage in fit test; do
            lightning $stage --config configs/ct/diffusion.yaml "${overlay[@]}" \
                --data.init_args.root "$root" \
                --model.init_args.autoencoder $stage1/checkpoints/last.ckpt \
                --seed_everything "$seed" \
                --trainer.default_root_dir "runs/ct/$arm-$seed"
        done
    done
done
noduleforge compare runs/ct/regularized-* runs/ct/conditioning_only-* \
    --reference conditioning_only --out runs/ct/comparison
