"""The gates in their order, around the routes of an app."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from dflash_serve.server.context import ServerContext
from dflash_serve.server.gates.bodies import CheckLength, LimitBody, check_content_type
from dflash_serve.server.gates.gate import Gate
from dflash_serve.server.gates.hosts import CheckHost
from dflash_serve.server.gates.keys import CheckKeys
from dflash_serve.server.gates.origins import CheckOrigin, allowed_origins
from dflash_serve.server.gates.room import CheckRoom, CheckStopping, check_connections
from dflash_serve.server.pace import Pace

_GENERATE = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
"""Routes whose requests go to the engine's queue."""


def add_gates(app: FastAPI, context: ServerContext) -> None:
    """Refuse what can be refused before a route reads the body.

    What a page of an allowed origin is refused inside of CORS, it can read.
    """
    settings, client = context.settings, context.client
    # the last one added is the first to see a request
    app.add_middleware(LimitBody, limit=settings.max_body_bytes, pace=Pace())
    app.add_middleware(
        Gate,
        checks=(
            check_connections,
            CheckStopping(client),
            CheckKeys(settings.api_key, settings.admin_key),
            check_content_type,
            CheckLength(settings.max_body_bytes),
            CheckRoom(client, _GENERATE),
        ),
    )
    if settings.cors_origin:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed_origins(settings.cors_origin),
            allow_methods=["*"],
            allow_headers=["*"],
        )
    app.add_middleware(
        Gate,
        checks=(
            CheckHost(settings.host, settings.allowed_host),
            CheckOrigin(settings.cors_origin),
        ),
    )
