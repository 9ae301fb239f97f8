"""``GET`` and ``POST /admin/drafter``: which drafter runs, and another in its place.

Who may ask is checked before a request gets here.
"""

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from dflash_serve.compose.drafting import DrafterCard, DrafterRefused, SwapRunning
from dflash_serve.server import errors
from dflash_serve.server.context import ServerContext
from dflash_serve.server.errors import ApiError
from dflash_serve.server.protocol.admin import DrafterChange, DrafterState


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()

    @routes.get("/admin/drafter", response_model=None)
    async def show_drafter() -> Response:
        return _state(context.drafting.now)

    @routes.post("/admin/drafter", response_model=None)
    async def change_drafter(request: Request) -> Response:
        try:
            body = DrafterChange.model_validate_json(await request.body())
        except ValidationError as error:
            raise errors.from_validation(error) from error
        try:
            return _state(await context.drafting.change_to(body.drafter))
        except DrafterRefused as error:
            raise ApiError(400, str(error), param="drafter", code="drafter_refused") from error
        except SwapRunning as error:
            raise ApiError(409, str(error), code="swap_running") from error

    return routes


def _state(card: DrafterCard) -> Response:
    state = DrafterState(
        drafter=card.name, block_size=card.block_size, fingerprint=card.fingerprint
    )
    return Response(state.json_text(), media_type="application/json")
