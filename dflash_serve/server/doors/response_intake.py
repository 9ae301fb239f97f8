"""``/v1/responses``'s body -> what its route needs. Knows nothing of engines or sockets."""

import time
import uuid
from dataclasses import dataclass

from dflash_serve.engine.types import SamplingParams
from dflash_serve.server import intake
from dflash_serve.server.ask import Ask
from dflash_serve.server.doors.response_ask import begun_response, response_ask, wants_summary
from dflash_serve.server.doors.response_items import earlier_items, own_items
from dflash_serve.server.doors.response_store import FoundItems
from dflash_serve.server.handling import Handling
from dflash_serve.server.prompts import encoded, prompt_tokens
from dflash_serve.server.protocol.response_answer import InputTokens, Response
from dflash_serve.server.protocol.responses import ResponsesRequest, StoredItem


@dataclass(frozen=True, slots=True)
class ResponseIntake:
    """A request for a response. ``own``: the items that it brought. ``begun``: the first answer."""

    ask: Ask
    begun: Response
    own: tuple[StoredItem, ...]
    stream: bool
    summary: bool


def read_response(data: bytes, handling: Handling) -> ResponseIntake:
    """The body as an `Ask` whose prompt is encoded, and the response object it begins with.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    body, facts = intake.parse(data, ResponsesRequest), handling.facts
    intake.check_model(body.model, facts)
    kept = FoundItems(handling.find)
    earlier, own = earlier_items(body, kept), own_items(body, kept)
    sampling = intake.sampling(
        facts,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        seed=body.seed,
    )
    ask = encoded(response_ask(body, earlier, own, sampling), facts, handling.room)
    name = f"resp_{uuid.uuid4().hex}"
    begun = begun_response(body, name, int(time.time()), facts.model, sampling)
    return ResponseIntake(ask, begun, tuple(own), bool(body.stream), wants_summary(body))


def count_input(data: bytes, handling: Handling) -> str:
    """The answer's JSON: how many tokens the body's input has.

    Raises:
        ApiError: naming the field and what is wrong with it.
    """
    body, facts = intake.parse(data, ResponsesRequest), handling.facts
    intake.check_model(body.model, facts)
    kept = FoundItems(handling.find)
    ask = response_ask(body, earlier_items(body, kept), own_items(body, kept), SamplingParams())
    count = len(prompt_tokens(ask, facts))
    return InputTokens(object="response.input_tokens", input_tokens=count).json_text()
