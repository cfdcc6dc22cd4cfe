#!/usr/bin/env bash
# The UNet and the transformer of configs/cxr side by side on the radiograph sample, with equal FLOP: a step of
# the transformer takes 0.949 of one of the UNet (`noduleforge size`), so that there are 211 where the UNet has
# 200. After `make quickstart-cxr`, whose autoencoder both have; one thread.
# Usage: benchmarks/denoisers.sh [SEED ...]     (default seed: 1)
set -euo pipefail
export OMP_NUM_THREADS=1
seeds=("$@")
[ $# -gt 0 ] || seeds=(1)
sample=(--config configs/quickstart/cxr_diffusion.yaml --config configs/trainer/cpu.yaml
    --data.init_args.batch_size 8 --model.init_args.warmup_steps 20)
unet=(--config configs/cxr/diffusion.yaml "${sample[@]}" --trainer.max_steps 200)
transformer=(--config configs/cxr/diffusion.yaml --config configs/cxr/transformer.yaml "${sample[@]}"
    --trainer.max_steps 211)

for seed in "${seeds[@]}"; do
    for arm in unet transformer; do
        declare -n configs=$arm
        run=("${configs[@]}" --seed_everything "$seed" --trainer.default_root_dir "runs/denoisers/$arm-$seed")
        lightning fit "${run[@]}"
        lightning test "${run[@]}"
    done
done
