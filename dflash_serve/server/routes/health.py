"""``GET /health``: 200 when requests are taken, 503 with the state's name when not."""

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
        body = {
            "status": state.value,
            "model": context.model.id,
            "drafter": context.drafting.now.name,
            "recording": context.recorder is not None and context.recorder.active,
            **asdict(context.client.stats()),
        }
        return JSONResponse(body, status_code=200 if state is EngineState.READY else 503)

    return routes
