"""Requests on disk as a server records them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from dflash_serve.engine.types import EngineRequest, Usage
from dflash_serve.server.recording import Finished, Recorder, Segments

Turn = tuple[Sequence[int], Sequence[int]]
"""A prompt and its answer."""


def record(directory: Path, target: str, turns: Iterable[Turn], keep: bool = True) -> Path:
    """Through the server's own recorder; ``keep``: with the prompts."""
    segments = Segments(directory, 10**7, {"target": target, "prompts": keep})
    segments.open()
    recorder = Recorder(segments, keep)
    recorder.start()
    for prompt, answer in turns:
        request = EngineRequest("r", tuple(prompt), 50)
        usage = Usage(len(prompt), len(answer))
        recorder.add(Finished(request, tuple(answer), "stop", usage, ("d@1",)))
    recorder.close()
    return directory
