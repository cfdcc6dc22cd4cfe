#!/bin/sh
# The UNet and the transformer of configs/cxr on the radiograph sample, with equal FLOP: a step of the
# transformer costs 0.923 of one of the UNet (`noduleforge size`), so that it takes 758 where the UNet
# takes 700. After `make quickstart-cxr`, whose autoencoder both share; one thread.
# docs/measurements.md has what came out.
set -eu
export OMP_NUM_THREADS=1
sample="--config configs/quickstart/cxr_diffusion.yaml"
for seed in ${SEEDS:-1 2}; do
    for arm in unet transformer; do
        case $arm in
            unet) configs="--config configs/cxr/diffusion.yaml $sample --trainer.max_steps 700" ;;
            transformer)
                configs="--config configs/cxr/diffusion.yaml --config configs/cxr/transformer.yaml $sample"
                configs="$configs --trainer.max_steps 758"
                ;;
        esac
        out="--seed_everything $seed --trainer.default_root_dir runs/denoisers/$arm-$seed --trainer.accelerator cpu"
        # shellcheck disable=SC2086
        lightning fit $configs $out
        # shellcheck disable=SC2086
        lightning test $configs $out
    done
done
