#!/usr/bin/env bash
# Makes the second trained pair from nothing: a small target of Qwen3.5's shape, three recurrent
# layers to one that attends, and a DFlash 2 drafter for it.
#
#   TRAIN_PYTHON=train-python tools/demo/hybrid.sh work    work/target and work/drafter
#
# TRAIN_PYTHON has PyTorch, NumPy, safetensors and tokenizers; MINUTES is how long the target trains
# on two cores. Started again, it goes on with the drafter.
set -euo pipefail
work=${1:?a folder}
root=$(cd "$(dirname "$0")/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
target=$work/target

mkdir -p "$target"
cp "$root"/dflash_serve/demo/target/{tokenizer,tokenizer_config,special_tokens_map}.json "$target"
if [ ! -f "$work/target.done" ]; then
    "${TRAIN_PYTHON:-python3}" "$root/tools/demo/pretrain_target.py" --family qwen3_5 \
        --target "$target" --minutes "${MINUTES:-31}" --seed 1
    touch "$work/target.done"
fi

python "$root/tools/demo/corpus.py" --prompts 10000 --seed 11 --out "$work/prompts.jsonl"
answer() {
    dflash-train data --target "$target" --turns last --max-new 160 --batch 64 "$@"
}
answer --prompts "$root/dflash_serve/demo/heldout.jsonl" --out "$work/heldout.jsonl"
answer --prompts "$work/prompts.jsonl" --out "$work/answers.jsonl"
dflash-train run --target "$target" --data "$work/answers.jsonl" --heldout "$work/heldout.jsonl" \
    --out "$work/drafter" --resume --features disk --feature-dir "$work/features" \
    --architecture dflash2 --selector-rank 64 --layers 2 --intermediate 576 --block-size 8 \
    --target-layers 0,1,2,3 --steps 1500 --anchors 12 --batch 12 --gamma 4 --muon --lr 0.012 \
    --measure-every 500 --seed 1
