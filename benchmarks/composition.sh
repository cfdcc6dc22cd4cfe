#!/usr/bin/env bash
# Adapters on real nodules and radiographs: fidelity of every combination and way of merging, FID against labels.
# Before it, data/lidc and data/chestxray14 must be there (or links to them).
# Usage: benchmarks/composition.sh [SEED ...]     (default seeds: 0 1 2)
set -euo pipefail
seeds=("$@")
[ $# -gt 0 ] || seeds=(0 1 2)
names=(calcified irregular inhomogeneous)
stage2=(--config configs/cxr/diffusion.yaml)
# docs/measurements.md has figures of this split; the configs have the detector's
split=(--data.init_args.split_seed 0)
scratch=("${split[@]}" --data.init_args.batch_size 16 --trainer.max_steps 2000)

folders() { # of the adapters, where NAME stands for theirs
    local name all=
    for name in "${names[@]}"; do all+="${all:+, }$name: ${1//NAME/$name}/adapters/$name"; done
    echo "{$all}"
}

lightning fit --config configs/cxr/autoencoder.yaml "${split[@]}"
lightning fit "${stage2[@]}" "${scratch[@]}" --model.init_args.init_from null \
    --model.init_args.autoencoder runs/cxr/autoencoder/checkpoints/last.ckpt
for command in fit test; do
    lightning $command --config configs/downstream/cxr_characteristics.yaml "${split[@]}"
done

for seed in "${seeds[@]}"; do
    init=(--model.init_args.init_from runs/cxr/diffusion/checkpoints/last.ckpt)
    seeded=("${init[@]}" "${split[@]}" --seed_everything "$seed")
    number=0
    for name in "${names[@]}"; do
        one=("${stage2[@]}" --config configs/cxr/adapter.yaml "${seeded[@]}" --trainer.max_steps 400
            --data.init_args.only "{$name: 1}" --model.init_args.characteristic "$name")
        lightning fit "${one[@]}" --trainer.default_root_dir "runs/cxr/$name-$seed"
        lightning fit "${one[@]}" --model.init_args.adapter.basis $number \
            --trainer.default_root_dir "runs/cxr/bases-$name-$seed"
        number=$((number + 1))
    done
    separate=$(folders "runs/cxr/NAME-$seed")
    for way in "" bases-; do
        mkdir -p "runs/cxr/${way:-separate-}$seed"
        for name in "${names[@]}"; do
            ln -sfn "../$way$name-$seed/adapters/$name" "runs/cxr/${way:-separate-}$seed/$name"
        done
    done
    together=("${stage2[@]}" --config configs/cxr/composition.yaml)
    trained=(--model.init_args.adapters "$separate" "${seeded[@]}")
    lightning fit "${together[@]}" "${trained[@]}" --trainer.max_steps 300 \
        --trainer.default_root_dir "runs/cxr/orthogonal-$seed"
    lightning fit "${together[@]}" --config configs/ablations/cxr/apart.yaml "${trained[@]}" \
        --trainer.max_steps 300 --trainer.default_root_dir "runs/cxr/apart-$seed"
    lightning fit "${together[@]}" --config configs/cxr/zip.yaml "${trained[@]}" \
        --trainer.max_steps 100 --trainer.default_root_dir "runs/cxr/zip-$seed"

    labels=("${stage2[@]}" --config configs/cxr/labels.yaml)
    lightning fit "${labels[@]}" "${scratch[@]}" --seed_everything "$seed" \
        --trainer.default_root_dir "runs/cxr/labels-$seed"
    labelled=(--ckpt_path "runs/cxr/labels-$seed/checkpoints/last.ckpt")
    lightning predict "${labels[@]}" --config benchmarks/labels_fidelity.yaml "${labelled[@]}" \
        "${split[@]}" --trainer.limit_predict_batches 3 --trainer.default_root_dir "runs/cxr/fidelity-labels-$seed"

    judge=("${stage2[@]}" --config configs/cxr/fidelity.yaml)
    for set in separate bases orthogonal apart zip; do
        case $set in
            separate) adapters=$separate ;;
            bases) adapters=$(folders "runs/cxr/bases-NAME-$seed") ;;
            *) adapters=$(folders "runs/cxr/$set-$seed") ;;
        esac
        lightning predict "${judge[@]}" --model.init_args.adapters "$adapters" "${split[@]}" \
            --trainer.limit_predict_batches 3 --trainer.default_root_dir "runs/cxr/fidelity-$set-$seed"
    done
    lightning predict "${judge[@]}" --config configs/cxr/mergings.yaml \
        --model.init_args.adapters "$separate" "${split[@]}" --trainer.limit_predict_batches 3 \
        --trainer.default_root_dir "runs/cxr/fidelity-mergings-$seed"

    fid=(--config benchmarks/fid.yaml "${split[@]}" --data.init_args.radiographs_per_nodule 8
        --data.init_args.batch_size 32 --model.init_args.sampling.seed $((1000 * seed)))
    for name in "${names[@]}"; do
        of=("${fid[@]}" --model.init_args.strengths "{$name: 1.0}" --data.init_args.only "{$name: 1}")
        lightning test "${stage2[@]}" --config configs/cxr/fidelity.yaml "${of[@]}" \
            --model.init_args.adapters "$separate" \
            --trainer.default_root_dir "runs/cxr/fid-adapter-$name-$seed"
        lightning test "${labels[@]}" "${of[@]}" "${labelled[@]}" \
            --trainer.default_root_dir "runs/cxr/fid-labels-$name-$seed"
    done
done

of_seeds() { local seed all=; for seed in "${seeds[@]}"; do all+="${all:+,}runs/cxr/$1-$seed${2:-}"; done; echo "$all"; }
python benchmarks/fidelity.py "separate=$(of_seeds fidelity-separate)" \
    "apart=$(of_seeds fidelity-apart)" "orthogonal=$(of_seeds fidelity-orthogonal)" \
    "bases=$(of_seeds fidelity-bases)" "zip=$(of_seeds fidelity-zip)" \
    "separate=$(of_seeds fidelity-mergings)" "labels=$(of_seeds fidelity-labels)"
python benchmarks/overlap.py "separate=$(of_seeds separate)" "bases=$(of_seeds bases)" "apart=$(of_seeds apart /adapters)" \
    "orthogonal=$(of_seeds orthogonal /adapters)" "zip=$(of_seeds zip /adapters)"
