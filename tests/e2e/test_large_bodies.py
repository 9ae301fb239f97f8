"""Large request bodies of a real server, which processes of its own handle."""

import signal
import threading

import httpx
import psutil

from tests.e2e.conftest import Start
from tests.e2e.server import PairPaths, ServerProcess, wait


def test_a_stop_while_a_body_is_handled_leaves_nothing_behind(
    pair: PairPaths, start: Start
) -> None:
    server = start(*pair.options(), "--port", "0", "--drain-timeout", "1")
    url = server.ready()
    sending = threading.Thread(target=_send_large, args=(url,))
    sending.start()
    workers = _busy_workers(server)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    sending.join(60)
    assert psutil.wait_procs(workers, timeout=60)[1] == []


def _send_large(url: str) -> None:
    """A body that takes many seconds: the server goes away first."""
    try:
        answer = httpx.post(
            f"{url}/tokenize", json={"prompt": "hello there " * 600_000}, timeout=60
        )
    except httpx.HTTPError:
        return
    assert not answer.is_success


def _busy_workers(server: ServerProcess) -> list[psutil.Process]:
    """The processes below the server's, once one of them has taken up a large body."""
    program = psutil.Process(server.process.pid)
    wait(lambda: any(w.memory_info().rss > 150 * 2**20 for w in program.children()), 60)
    return program.children()
