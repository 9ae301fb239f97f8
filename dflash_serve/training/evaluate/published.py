"""Published tokens per round of z-lab's drafters, to stand beside what is measured here.

Their tau is the mean over responses of each one's mean committed tokens per round, the bonus token
included: `tokens_per_round`. Thinking is off; the older protocol's rows, on a B200.
"""

import re

from dflash_serve.training.evaluate.sets import DATASETS

_TAU = {
    ("qwen3-8b", 0.0): (6.55, 7.87, 7.48, 7.31, 6.55, 6.00, 7.12, 3.69, 4.25, 3.16),
    ("qwen3-8b", 1.0): (6.04, 6.57, 5.06, 5.03, 5.40, 5.17, 6.79, 2.82, 3.74, 2.88),
    ("qwen3-4b", 0.0): (6.50, 7.84, 7.47, 7.28, 6.63, 6.19, 6.97, 3.70, 4.35, 3.10),
    ("qwen3-4b", 1.0): (5.98, 6.67, 4.97, 5.01, 6.05, 5.55, 6.60, 3.09, 4.03, 2.99),
}
"""By target and temperature, in the order of `DATASETS`."""
_PRECISION = re.compile(r"-(mlx|bf16|fp16|fp8|\d+bit)(?=-|$)")


def published_tau(target: str, dataset: str, temperature: float, thinking: str) -> float | None:
    """That of z-lab's drafter for the target called ``target``, in any precision, if there is one.

    ``target``: a hub id, a directory or a server's model.
    """
    name = _PRECISION.sub("", target.rstrip("/").rsplit("/", 1)[-1].lower())
    values = _TAU.get((name, temperature))
    if values is None or thinking != "off":
        return None
    return dict(zip(DATASETS, values, strict=True)).get(dataset)
