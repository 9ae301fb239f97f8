"""Hand-made step results, as ints."""

from collections.abc import Iterable

from dflash_serve.engine.plan import Chosen, StepResult


def step_result(first: Iterable[int] = (), committed: Iterable[Iterable[int]] = ()) -> StepResult:
    """First tokens of the prefill rows, and what each decode row committed."""
    return StepResult(
        tuple(Chosen((token,)) for token in first),
        tuple(Chosen(tuple(tokens)) for tokens in committed),
    )
