"""A drafter whose proposals a test decides."""

from collections.abc import Callable, Sequence

import mlx.core as mx

from dflash_serve.adapters.base import AttentionCache, DraftAdapter
from dflash_serve.bench.simulated import ChainDraft

Script = Callable[[mx.array, mx.array, mx.array], mx.array]
"""(the drafter's own drafts [R, q], their positions [R, q], anchors [R]) -> drafts [R, q] int32."""


class ScriptedDrafter:
    """Wraps a real drafter: same compute and context, proposals by ``script``."""

    def __init__(self, drafter: DraftAdapter, script: Script) -> None:
        self._drafter = drafter
        self._script = script

    def __getattr__(self, name: str) -> object:
        return getattr(self._drafter, name)

    def draft(self, anchors: mx.array, width: int, caches: Sequence[AttentionCache]) -> ChainDraft:
        drafts = self._drafter.draft(anchors, width, caches).chain()
        positions = caches[0].offset[:, None] + mx.arange(1, width, dtype=mx.int32)
        return ChainDraft(self._script(drafts, positions, anchors))
