#!/usr/bin/env bash
# Trains a drafter for the demo target from nothing: prompts, the target's answers, the run.
#
#   tools/demo/drafter.sh dflash2 work    a DFlash 2 drafter, in work/dflash2
#   tools/demo/drafter.sh shipped work    that one fine-tuned on answers under a JSON schema too, in
#                                         work/shipped
#   tools/demo/drafter.sh v1 work         the DFlash v1 drafter, in work/v1
#   tools/demo/drafter.sh vp work         a VP-drafter, in work/vp
#
# Answers and features are made once per folder and serve all three. Started again, it goes on.
set -euo pipefail
kind=${1:?dflash2, shipped, v1 or vp} work=${2:?a folder}
root=$(cd "$(dirname "$0")/../.." && pwd)
export PATH="$root/.venv/bin:$PATH"
target=$root/dflash_serve/demo/target
case $kind in
shipped) "$0" dflash2 "$work" ;;
dflash2) options=(--steps 2000 --architecture dflash2 --selector-rank 64) ;;
v1) options=(--steps 2000) ;;
vp) options=(--steps 1000 --training-mode vp_drafter --prefix-weight-base 0.9) ;;
*) echo "unknown kind $kind: dflash2, shipped, v1 or vp" >&2 && exit 2 ;;
esac

mkdir -p "$work"
python "$root/tools/demo/corpus.py" --prompts 14000 --seed 11 --out "$work/prompts.jsonl"
answer() {
    dflash-train data --target "$target" --turns last --max-new 160 --batch 64 "$@"
}
answer --prompts "$root/dflash_serve/demo/heldout.jsonl" --out "$work/heldout.jsonl"
answer --prompts "$work/prompts.jsonl" --out "$work/answers.jsonl"
train() {
    dflash-train run --target "$target" --heldout "$work/heldout.jsonl" --resume \
        --anchors 12 --batch 12 --gamma 4 --muon "$@"
}
if [ "$kind" = shipped ]; then
    # the header and the first 2,234 of the answers, beside 1,764 under the schema
    head -2235 "$work/answers.jsonl" >"$work/some.jsonl"
    python "$root/tools/demo/structured.py" --prompts "$work/prompts.jsonl" \
        --answers "$work/some.jsonl" --out "$work/mixed.jsonl"
    train --data "$work/mixed.jsonl" --features memory --start "$work/dflash2" \
        --out "$work/shipped" --steps 1000 --lr 0.006 --measure-every 500 --seed 1
    exit
fi
train --data "$work/answers.jsonl" --out "$work/$kind" \
    --features disk --feature-dir "$work/features" \
    --layers 2 --block-size 8 --target-layers 1,3,5,7 --lr 0.012 --measure-every 500 --seed 1 \
    "${options[@]}"
