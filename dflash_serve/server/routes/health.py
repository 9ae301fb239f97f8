"""``GET /health``: 200 when requests are taken, 503 with the state's name when not.

Only an engine that runs has numbers.
"""

from dataclasses import asdict

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from dflash_serve.engine.client import EngineState
from dflash_serve.server.context import ServerContext


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.get("/health")
    async def health() -> JSONResponse:
        state = context.client.state
        runs = state in (EngineState.READY, EngineState.DRAINING)
        body = {
            "status": state.value,
            "model": context.model.id,
            "drafter": context.drafting.now.name,
            "recording": context.recorder is not None and context.recorder.active,
            **(asdict(context.client.stats()) if runs else {}),
        }
        return JSONResponse(body, status_code=200 if state is EngineState.READY else 503)

    return routes
