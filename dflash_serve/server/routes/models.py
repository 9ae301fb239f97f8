"""``GET /v1/models`` and ``GET /v1/models/{id}``: the one model that is served."""

from typing import Any

from fastapi import APIRouter

from dflash_serve.server.context import ServerContext
from dflash_serve.server.errors import ApiError, shown


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    model = context.model

    def entry() -> dict[str, Any]:
        drafter = context.drafting.now
        return {
            "id": model.id,
            "object": "model",
            "created": model.created,
            "owned_by": "dflash-serve",
            "max_context": context.max_context,
            "max_model_len": context.max_context,
            "drafter": drafter.name,
            "block_size": drafter.block_size,
            "speculation": context.settings.speculation if drafter.name else "off",
        }

    @routes.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [entry()]}

    @routes.get("/v1/models/{model_id:path}")
    async def retrieve_model(model_id: str) -> dict[str, Any]:
        if model_id != model.id:
            message = f"The model {shown(model_id)} does not exist"
            raise ApiError(404, message, param="model", code="model_not_found")
        return entry()

    return routes
