"""The items of ``/v1/responses``'s conversations: brought, looked up, kept and listed. Pure."""

import secrets
from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from dflash_serve.server.doors.response_store import KeptItems, StoredResponse
from dflash_serve.server.errors import ApiError, invalid, shown
from dflash_serve.server.protocol.response_answer import ItemList, OutputItem, Response
from dflash_serve.server.protocol.responses import (
    CallItem,
    CallOutputItem,
    ItemReference,
    MessageItem,
    ReasoningItem,
    ResponsesRequest,
    StoredItem,
)

PAGE_LIMIT = 100
_PREFIXES = {MessageItem: "msg", CallItem: "fc", CallOutputItem: "fco", ReasoningItem: "rs"}
_ITEM: TypeAdapter[StoredItem] = TypeAdapter(StoredItem)


def own_items(body: ResponsesRequest, store: KeptItems) -> list[StoredItem]:
    """The items that the request brings, each with an id, references looked up.

    Raises:
        ApiError: there are none, or a reference is to an item that is not kept.
    """
    if isinstance(body.input, str):
        return [_with_id(MessageItem(type="message", role="user", content=body.input))]
    items: list[StoredItem] = []
    for at, item in enumerate(body.input or ()):
        if not isinstance(item, ItemReference):
            items.append(_with_id(item))
            continue
        found = store.item(item.id)
        if found is None:
            param = f"input.{at}.id"
            raise _missing(f"No item with the id {shown(item.id)} is kept on this server", param)
        items.append(found)
    if not items and not body.previous_response_id:
        message = "'input' is empty. Send a text or at least one item."
        raise invalid("input", message)
    return items


def earlier_items(body: ResponsesRequest, store: KeptItems) -> tuple[StoredItem, ...]:
    """The conversation that the request goes on with.

    Raises:
        ApiError: it is not kept.
    """
    name = body.previous_response_id
    if name is None:
        return ()
    items = store.conversation(name)
    if items is None:
        message = f"Previous response with id {shown(name)} not found on this server"
        raise _missing(message, "previous_response_id", "previous_response_not_found")
    return items


def stored(
    response: Response, earlier: tuple[StoredItem, ...], own: Sequence[StoredItem]
) -> StoredResponse:
    """What is kept of a response that has ended.

    A call that the token limit cut off is no part of the conversation: nobody can answer it.
    """
    whole = [item for item in response.output if not _is_cut_call(item)]
    made = [as_input(item) for item in whole]
    items = (*earlier, *own, *made)
    size = len(response.json_text()) + sum(len(item.model_dump_json()) for item in items)
    return StoredResponse(response, items, len(own), len(made), size)


def _is_cut_call(item: OutputItem) -> bool:
    return item.type == "function_call" and item.status == "incomplete"


def as_input(item: OutputItem) -> StoredItem:
    """An item that was given out, as a client would send it back."""
    return _ITEM.validate_python(item.model_dump(exclude_unset=True))


def page(entry: StoredResponse, after: str | None, limit: str, order: str) -> ItemList:
    """At most ``limit`` of one response's input items, behind the one with the id ``after``.

    Raises:
        ApiError: naming the parameter and its limit.
    """
    size = int(limit) if limit.isdecimal() else 0
    if not 1 <= size <= PAGE_LIMIT:
        message = f"Invalid 'limit': it should be 1 to {PAGE_LIMIT}, but it is {shown(limit)}"
        raise invalid("limit", message)
    if order not in ("asc", "desc"):
        message = f'Invalid \'order\': it should be "asc" or "desc", but it is {shown(order)}'
        raise invalid("order", message)
    items = list(entry.input_items)[:: 1 if order == "asc" else -1]
    names = [item.id for item in items]
    if after is not None and after not in names:
        message = f"Invalid 'after': no input item has the id {shown(after)}"
        raise invalid("after", message)
    begin = 0 if after is None else names.index(after) + 1
    part = items[begin : begin + size]
    return ItemList(
        object="list",
        data=[_listed(item) for item in part],
        first_id=part[0].id if part else None,
        last_id=part[-1].id if part else None,
        has_more=begin + size < len(items),
    )


def _listed(item: StoredItem) -> dict[str, Any]:
    data = item.model_dump(exclude_none=True)
    data |= {"type": item.type or "message", "status": item.status or "completed"}
    if isinstance(item, MessageItem) and isinstance(item.content, str):
        kind = "output_text" if item.role == "assistant" else "input_text"
        data["content"] = [{"type": kind, "text": item.content}]
    if isinstance(item, MessageItem) and item.role == "assistant":
        data["content"] = [{"annotations": []} | part for part in data["content"]]
    return data


def _with_id(item: StoredItem) -> StoredItem:
    if item.id is not None:
        return item
    return item.model_copy(update={"id": f"{_PREFIXES[type(item)]}_{secrets.token_hex(16)}"})


def _missing(message: str, param: str, code: str = "item_not_found") -> ApiError:
    return ApiError(400, message, param=param, code=code)
