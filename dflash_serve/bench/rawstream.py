"""A streamed chat over a bare socket: little work of the client's own beside what is measured."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def raw_stream(port: int, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """Send ``body`` as a chat request to 127.0.0.1; what comes back, from the status line on."""
    content = json.dumps(body | {"stream": True}).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        yield reader
    finally:
        writer.close()
