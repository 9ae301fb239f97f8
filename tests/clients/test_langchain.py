"""LangChain's standard integration tests, once per door that LangChain can talk to.

The suite skips inputs that are no text (images, audio, PDF), which no target here takes, and a
timing test that replays recordings.
"""

from typing import Any

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.clients.conftest import MODEL


class Suite(ChatModelIntegrationTests):
    """What all three say of the model."""

    base_url: str

    @pytest.fixture(autouse=True)
    def _server(self, url: str) -> None:
        type(self).base_url = url

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL

    def params(self, **more: Any) -> dict[str, Any]:
        return {"model": MODEL, "api_key": "-", "max_retries": 0, "temperature": 0} | more


class TestChatCompletions(Suite):
    """``ChatOpenAI`` as it is: ``/v1/chat/completions``."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params(base_url=f"{self.base_url}/v1", stream_usage=True)

    @property
    def supports_json_mode(self) -> bool:
        return True


class TestResponses(TestChatCompletions):
    """``ChatOpenAI`` over ``/v1/responses``, which takes no stop strings."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params(base_url=f"{self.base_url}/v1", use_responses_api=True)


class TestMessages(Suite):
    """``ChatAnthropic``: ``/v1/messages``."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params(base_url=self.base_url, max_tokens=512)


# collected by way of its subclasses only
del Suite, ChatModelIntegrationTests
