"""``GET /version``."""

from fastapi import APIRouter

from dflash_serve.server.context import ServerContext
from dflash_serve.version import __version__


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.get("/version")
    async def version() -> dict[str, str]:
        return {"version": __version__}

    return routes
