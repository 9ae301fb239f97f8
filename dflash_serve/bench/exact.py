"""``dflash-bench exact``: are the tokens those of plain decoding, whatever happens around a row?

Greedy and sampled requests share batches, join late and are cancelled between rounds, all seeded.
"""

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from dflash_serve.adapters.exactness import exact_path
from dflash_serve.bench.figures import unequal
from dflash_serve.bench.options import ExactOptions
from dflash_serve.bench.pair import Pair, drafting_pair, second_of
from dflash_serve.bench.report import bars, picture, table_of
from dflash_serve.bench.simulated import EchoDrafter
from dflash_serve.bench.work import decode_plainly, longest_of, make_prompts, requests_of
from dflash_serve.engine.config import EngineConfig
from dflash_serve.engine.runner import DeviceRunner
from dflash_serve.engine.types import EngineRequest, FinishReason, SamplingParams
from dflash_serve.measure.driver import Answer, Driver, Run
from dflash_serve.measure.results import Result

_SAMPLINGS = (
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=1.0, top_p=0.9),
    SamplingParams(temperature=1.2, top_k=20),
    SamplingParams(temperature=0.8, min_p=0.05),
)
"""Sampled requests take these in turn."""


def run(options: ExactOptions) -> Result:
    """Every batch size with every block size, against plain decoding one request at a time.

    A random pair's drafter is right so seldom that it is made an `EchoDrafter`.
    """
    pair = drafting_pair(options.pair)
    assert pair.drafter is not None
    drafter = EchoDrafter(pair.drafter) if options.random_target else pair.drafter
    prompts = make_prompts(options, pair, options.prompts)
    requests = requests_of(prompts, options.max_tokens, partial(_sampling, seed=options.seed))
    reference = decode_plainly(pair.target, requests)
    combinations = []
    for block in options.block_sizes:
        second = second_of(options.pair, options.second_drafter, pair, block)
        # one runner for all batch sizes of a block: traces and caches carry over, as in a server
        with closing(DeviceRunner(pair.target, drafter, block, second=second)) as runner:
            for batch in options.batches:
                config = EngineConfig(
                    max_batch=batch,
                    max_context=longest_of(requests),
                    block_size=block,
                    tree_nodes=(options.tree,),
                )
                combinations.append(_combination(options, runner, config, requests, reference))
    return _result(options, pair, combinations, reference)


def _sampling(number: int, seed: int) -> SamplingParams:
    """Every other request is greedy, the others sample in turns."""
    if number % 2 == 0:
        return SamplingParams()
    return replace(_SAMPLINGS[number // 2 % len(_SAMPLINGS)], seed=seed + number)


def _combination(
    options: ExactOptions,
    runner: DeviceRunner,
    config: EngineConfig,
    requests: Sequence[EngineRequest],
    reference: Run,
) -> dict[str, Any]:
    started = time.perf_counter()
    rng = random.Random(f"{options.seed}-{config.max_batch}-{config.block_size}")
    driver = Driver(runner, config)
    late_joins = _disturbed(driver, config, requests, options.cancel, rng)
    run = driver.finish()
    found = _compare(run.answers, reference.answers)
    leaked = runner.rows
    return {
        "batch": config.max_batch,
        "block": config.block_size,
        "requests": len(requests),
        **found,
        "late_joins": late_joins,
        "leaked_rows": leaked,
        "rounds": run.stats.rounds,
        "accepted_drafts": run.stats.accepted,
        "wrong": found["different"] + found["cancelled_different"] + leaked,
        "seconds": time.perf_counter() - started,
    }


def _disturbed(
    driver: Driver,
    config: EngineConfig,
    requests: Sequence[EngineRequest],
    cancel: float,
    rng: random.Random,
) -> int:
    """Feed the requests in bit by bit and cancel some; the number that joined running rows."""
    waiting = list(reversed(requests))
    to_cancel = {r.id: rng.randint(0, r.max_tokens) for r in requests if rng.random() < cancel}
    live: list[str] = []
    late_joins = 0
    while waiting:
        room = config.max_batch + 1 - len(live)
        for _ in range(min(len(waiting), rng.randint(0, max(0, room)) or int(driver.idle))):
            request = waiting.pop()
            late_joins += not driver.idle
            driver.add(request)
            live.append(request.id)
        driver.step()
        live = [key for key in live if driver.answers[key].finish is None]
        for key in live:
            if len(driver.answers[key].tokens) >= to_cancel.get(key, 1 << 30):
                driver.abort(key)
    return late_joins


def _compare(answers: Mapping[str, Answer], reference: Mapping[str, Answer]) -> dict[str, Any]:
    """How many are equal, in tokens and reason, and of the cancelled ones how many were so far."""
    names = ("equal", "different", "cancelled_prefix", "cancelled_different")
    counts = dict.fromkeys(names, 0)
    first: dict[str, Any] | None = None
    for key, answer in answers.items():
        plain = reference[key]
        if answer.finish is FinishReason.ABORTED:
            same = answer.tokens == plain.tokens[: len(answer.tokens)]
            counts["cancelled_prefix" if same else "cancelled_different"] += 1
        else:
            same = answer.tokens == plain.tokens and answer.finish is plain.finish
            counts["equal" if same else "different"] += 1
        if not same and first is None:
            pairs = zip(answer.tokens, plain.tokens, strict=False)
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(answer.tokens))
            first = {"request": key, "position": at}
    return {**counts, "first_difference": first}


def _result(
    options: ExactOptions, pair: Pair, combinations: list[dict[str, Any]], reference: Run
) -> Result:
    wrong = sum(entry["wrong"] for entry in combinations)
    settings = options.recorded() | {
        "samplings": len(_SAMPLINGS),
        "drafts": "echo" if options.random_target else "drafter",
    }
    measured = {
        "pair": pair.describe(),
        "exact_path": exact_path(),
        "compared": sum(entry["requests"] for entry in combinations),
        "wrong": wrong,
        "reference_tokens": reference.generated,
        "combinations": combinations,
    }
    failures = unequal(wrong, "answers differ from plain decoding or leak a slot")
    return Result("exact", settings, measured, failures)


_OUTCOMES = ("equal", "cancelled_prefix", "different", "cancelled_different")


def tables(result: Result) -> list[Table]:
    measured = result.measured
    title = f"{measured['compared']} requests against plain decoding, {measured['wrong']} wrong"
    rest = ("late_joins", "leaked_rows", "rounds", "accepted_drafts", "seconds")
    return [table_of(title, measured["combinations"], ("batch", "block", *_OUTCOMES, *rest))]


def plot(result: Result) -> Figure:
    """Outcomes by combination."""
    entries = result.measured["combinations"]

    def name(entry: dict[str, Any]) -> str:
        return f"{entry['batch']} x {entry['block']}"

    return picture(bars("answers by batch x block", entries, name, _OUTCOMES, stacked=True))
