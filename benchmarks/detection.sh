#!/usr/bin/env bash
# Do synthetic nodules help to find nodules on radiographs? From the generator to every arm, paired seeds.
# Before it, data/lidc and data/chestxray14 must be there (or links to them).
# Usage: benchmarks/detection.sh [SEED ...]     (default seeds: 0 1 2 3 4)
set -euo pipefail
seeds=("$@")
[ $# -gt 0 ] || seeds=(0 1 2 3 4)
names=(calcified irregular inhomogeneous)
runs=runs/detection
base=$runs/base/checkpoints/last.ckpt
stage2=(--config configs/cxr/diffusion.yaml)

folders() { # of the adapters, where NAME stands for theirs
    local name all=
    for name in "${names[@]}"; do all+="${all:+, }$name: ${1//NAME/$name}/adapters/$name"; done
    echo "{$all}"
}

lightning fit --config configs/cxr/autoencoder.yaml --trainer.default_root_dir $runs/autoencoder
lightning fit "${stage2[@]}" --data.init_args.batch_size 16 --trainer.max_steps 2000 \
    --model.init_args.init_from null --trainer.default_root_dir $runs/base \
    --model.init_args.autoencoder $runs/autoencoder/checkpoints/last.ckpt
for name in "${names[@]}"; do
    lightning fit "${stage2[@]}" --config configs/cxr/adapter.yaml \
        --data.init_args.only "{$name: 1}" --model.init_args.characteristic "$name" \
        --model.init_args.init_from $base --trainer.max_steps 400 \
        --trainer.default_root_dir $runs/$name
done
for set in orthogonal apart; do
    overlay=()
    [ $set = orthogonal ] || overlay=(--config configs/ablations/cxr/$set.yaml)
    lightning fit "${stage2[@]}" --config configs/cxr/composition.yaml "${overlay[@]}" \
        --model.init_args.init_from $base \
        --model.init_args.adapters "$(folders "$runs/NAME")" --trainer.max_steps 300 \
        --trainer.default_root_dir $runs/$set
done

number=0
for pair in "calcified irregular" "calcified inhomogeneous" "irregular inhomogeneous" "${names[*]}"; do
    read -ra shown <<<"$pair"
    folder=$(IFS=_ && echo "${shown[*]}")
    [ ${#shown[@]} -lt 3 ] || folder=all_three
    strengths=$(printf "%s: 1.0, " "${shown[@]}")
    requests=$runs/requests/$folder
    [ -e $requests/requests.csv ] || noduleforge place-radiographs --background_radiographs ChestXray14Collection \
        --background_radiographs.root data/chestxray14 --split train --split_seed 4 --shapes data/lidc \
        --select "link_cost < 3" --diameter_mm "[8, 25]" --copies 3 --seed $number --out $requests
    number=$((number + 1))
    for set in orthogonal apart; do
        out=runs/cxr/inserted
        [ $set = orthogonal ] || out=runs/cxr/inserted_unorthogonal
        lightning predict "${stage2[@]}" --config configs/cxr/composition.yaml \
            --config configs/cxr/insert.yaml --model.init_args.init_from $base --ckpt_path null \
            --model.init_args.adapters "$(folders $runs/$set)" --data.init_args.requests $requests/requests.csv \
            --model.init_args.strengths "{${strengths%, }}" --trainer.default_root_dir $out/$folder
    done
done

down=(--config configs/downstream/cxr_detection.yaml)
# cxr_synthetic_4 needs more copies of each radiograph
arms=(real weighted copy_paste synthetic unorthogonal synthetic_half synthetic_2 synthetic_only)
for seed in "${seeds[@]}"; do
    for arm in "${arms[@]}"; do
        overlay=(--config configs/downstream/augmentation/cxr_$arm.yaml)
        case $arm in
            real) overlay=() ;;
            synthetic_*) overlay=(--config configs/downstream/augmentation/cxr_synthetic.yaml "${overlay[@]}") ;;
        esac
        for command in fit test; do
            lightning $command "${down[@]}" "${overlay[@]}" --seed_everything "$seed" --trainer.max_steps 500 \
                --trainer.default_root_dir "runs/downstream/cxr/$arm-$seed"
        done
    done
done
noduleforge compare runs/downstream/cxr/*-? --reference real --out runs/downstream/cxr/comparison
