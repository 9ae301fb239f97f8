"""Where torch.compile goes wrong: gradients by each of its backends against float64, op by op.

backends.py needs PyTorch alone. The backends before the last run the same traced graph, the last
but one with the decompositions and the partition of inductor too, by PyTorch's own kernels.
"""

import torch
from drafter_torch import Batch, Config, Drafter

CONFIG = Config(hidden=32, inner=64, heads=4, kv_heads=2, head_dim=16, taps=2, layers=1, mask_id=63)
BACKENDS = ("aot_eager", "aot_eager_decomp_partition", "inductor")
S, N, B, T = 2, 3, 8, 16


def random_batch(seed: int) -> Batch:
    """In float64."""
    made = torch.Generator().manual_seed(seed)
    anchors = torch.randint(0, T - B, (S, N), generator=made).sort().values
    return Batch(
        torch.randn(S, T, CONFIG.taps * CONFIG.hidden, generator=made, dtype=torch.float64),
        anchors.int(),
        torch.randint(0, CONFIG.mask_id, (S, N, B), generator=made).int(),
        torch.rand(S, N, B, generator=made, dtype=torch.float64),
        torch.ones(S, N, dtype=torch.int32),
    )


def gradients(drafter: Drafter, batch: Batch, dtype: torch.dtype, backend: str | None) -> dict:
    drafter.to(dtype).zero_grad(set_to_none=True)
    torch.compiler.reset()
    forward = drafter if backend is None else torch.compile(drafter, backend=backend)
    loss, _ = forward(
        Batch(
            batch.taps.to(dtype),
            batch.anchors,
            batch.labels,
            batch.weights.to(dtype),
            batch.visible,
        )
    )
    loss.backward()
    return {name: value.grad.double().clone() for name, value in drafter.named_parameters()}


def main() -> None:
    torch.manual_seed(0)
    drafter = Drafter(CONFIG, 0.02 * torch.randn(CONFIG.mask_id + 1, CONFIG.hidden)).double()
    batch = random_batch(5)
    wanted = gradients(drafter, batch, torch.float64, None)
    for backend in (None, *BACKENDS):
        found = gradients(drafter, batch, torch.float32, backend)
        apart = {name: ((found[name] - w).norm() / w.norm()).item() for name, w in wanted.items()}
        worst = max(apart, key=apart.__getitem__)
        print(
            f"{torch.__version__} {backend or 'op by op'}: {worst} {apart[worst]:.1e}", flush=True
        )


if __name__ == "__main__":
    main()
