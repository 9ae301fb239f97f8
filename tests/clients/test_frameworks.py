"""Agent frameworks: OpenAI's Agents SDK and Pydantic AI, by each door that they can use."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool
from agents import set_tracing_disabled as without_tracing
from anthropic import AsyncAnthropic
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.openai import OpenAIResponsesModel as PydanticResponses
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.conftest import MODEL
from tests.clients.test_openai import STEPS, Answer

TWICE = 'call get_weather({"city": "Paris"}) then call get_weather({"city": "Rome"})'
REPLY = "The result is sunny in Paris and sunny in Rome."


def get_weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0) as client:
        yield client


@pytest.fixture(params=["chat", "responses"])
def model(request: pytest.FixtureRequest, client: openai.AsyncOpenAI) -> Any:
    without_tracing(True)
    chosen = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}
    return chosen[request.param](model=MODEL, openai_client=client)


async def test_agents_loop(model: Any) -> None:
    agent = Agent(name="guide", tools=[function_tool(get_weather)], model=model)
    assert (await Runner.run(agent, TWICE)).final_output == REPLY
    streamed = Runner.run_streamed(agent, TWICE)
    kinds = [event.type async for event in streamed.stream_events()]
    assert streamed.final_output == REPLY
    assert "raw_response_event" in kinds


async def test_agents_typed_output(model: Any) -> None:
    agent = Agent(name="teacher", output_type=Answer, model=model)
    result = await Runner.run(agent, f"Give me {STEPS}")
    assert result.final_output == Answer.model_validate_json(STEPS)


async def test_agents_hand_over(model: Any) -> None:
    poet = Agent(name="poet", model=model)
    guide = Agent(name="guide", handoffs=[poet], model=model)
    result = await Runner.run(guide, "call transfer_to_poet({})")
    assert result.last_agent is poet


@pytest.fixture(params=["chat", "responses", "messages"])
def pydantic_model(request: pytest.FixtureRequest, url: str, client: openai.AsyncOpenAI) -> Any:
    if request.param == "messages":
        anthropic = AsyncAnthropic(base_url=url, api_key="-", max_retries=0)
        return AnthropicModel(MODEL, provider=AnthropicProvider(anthropic_client=anthropic))
    chosen = {"chat": OpenAIChatModel, "responses": PydanticResponses}
    return chosen[request.param](MODEL, provider=OpenAIProvider(openai_client=client))


async def test_pydantic_ai_loop(pydantic_model: Any) -> None:
    agent = PydanticAgent(pydantic_model, tools=[get_weather])
    assert (await agent.run(TWICE)).output == REPLY
    async with agent.run_stream(TWICE) as streamed:
        assert await streamed.get_output() == REPLY


async def test_pydantic_ai_typed_output(pydantic_model: Any) -> None:
    agent = PydanticAgent(pydantic_model, output_type=Answer)
    assert (await agent.run(f"Give me {STEPS}")).output == Answer.model_validate_json(STEPS)
    assert isinstance((await agent.run("Hello!")).output, Answer)
