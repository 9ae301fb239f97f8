"""``POST /v1/responses`` and its token count; what is kept: GET, DELETE, and input items."""

import time
from collections.abc import AsyncIterator, Callable, Iterable

from fastapi import APIRouter, Request, Response

from dflash_serve.engine.errors import EngineError
from dflash_serve.server import errors
from dflash_serve.server.begin import begin
from dflash_serve.server.bodies import handle
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.response_events import ResponseWriter
from dflash_serve.server.doors.response_intake import count_input, read_response
from dflash_serve.server.doors.response_items import page, stored
from dflash_serve.server.doors.response_store import Lookups, ResponseStore, StoredResponse
from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.generation import Generation
from dflash_serve.server.protocol import response_answer as wire
from dflash_serve.server.protocol.common import ResponseModel
from dflash_serve.server.protocol.response_events import ResponseEvent
from dflash_serve.server.sse import GenerationResponse, event, while_connected

_KEPT = 1000
_KEPT_BYTES = 64 * 2**20
_PAGE = "20"


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    store = ResponseStore(_KEPT, _KEPT_BYTES)

    @routes.post("/v1/responses", response_model=None)
    async def create_response(request: Request) -> Response:
        return await _create(request, store, context)

    @routes.post("/v1/responses/input_tokens", response_model=None)
    async def count_input_tokens(request: Request) -> Response:
        answer = await handle(request, count_input, context, Lookups(store).find)
        return Response(answer, media_type="application/json")

    @routes.get("/v1/responses/{name}", response_model=None)
    async def retrieve_response(name: str, stream: str = "false") -> Response:
        if stream.lower() not in ("false", "0"):
            message = "A response that was kept is not streamed again. Leave out 'stream'."
            raise ApiError(400, message, param="stream", code="unsupported_parameter")
        return _json(_kept(name, store).response)

    @routes.delete("/v1/responses/{name}", response_model=None)
    async def delete_response(name: str) -> Response:
        _kept(name, store)
        store.remove(name)
        return _json(wire.DeletedResponse(id=name, object="response", deleted=True))

    @routes.get("/v1/responses/{name}/input_items", response_model=None)
    async def list_input_items(
        name: str, after: str | None = None, limit: str = _PAGE, order: str = "desc"
    ) -> Response:
        return _json(page(_kept(name, store), after, limit, order))

    return routes


async def _create(request: Request, store: ResponseStore, context: ServerContext) -> Response:
    lookups = Lookups(store)
    taken = await handle(request, read_response, context, lookups.find)
    writer = ResponseWriter(taken.begun, summary=taken.summary)
    generation = await begin(taken.ask, context, taken.begun.id)

    def keep() -> None:
        if writer.response.store:
            store.add(stored(writer.response, lookups.earlier, taken.own))

    if taken.stream:
        events = _events(generation, writer, keep)
        return GenerationResponse(generation, events, context.settings)
    answer = await while_connected(request, generation, _whole(generation, writer))
    keep()
    return _json(answer)


async def _events(
    generation: Generation, writer: ResponseWriter, keep: Callable[[], None]
) -> AsyncIterator[bytes]:
    yield _encoded(writer.begin())
    try:
        async for batch in generation.batches():
            if data := b"".join(_encoded(writer.push(delta)) for delta in batch):
                yield data
    except EngineError as error:
        yield _encoded(writer.fail(errors.from_engine(error).message))
        return
    last = writer.finish(int(time.time()))
    keep()  # before the client learns that it can come back to it
    yield _encoded(last)


def _encoded(events: Iterable[ResponseEvent]) -> bytes:
    return b"".join(event(item.json_text(), item.type) for item in events)


async def _whole(generation: Generation, writer: ResponseWriter) -> wire.Response:
    async for delta in generation.deltas():
        writer.push(delta)
    writer.finish(int(time.time()))
    return writer.response


def _kept(name: str, store: ResponseStore) -> StoredResponse:
    entry = store.get(name)
    if entry is None:
        message = f"Response with id {shown(name)} not found on this server"
        raise ApiError(404, message, param="response_id", code="response_not_found")
    return entry


def _json(body: ResponseModel) -> Response:
    return Response(body.json_text(), media_type="application/json")
