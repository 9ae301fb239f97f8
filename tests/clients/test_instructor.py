"""instructor: typed answers by tools and by schemas."""

from collections.abc import Iterable
from typing import Literal

import instructor
import openai
import pytest
from pydantic import BaseModel

from tests.clients.conftest import MODEL


class User(BaseModel):
    name: str
    age: int
    role: Literal["admin", "guest"]


def client(url: str, mode: instructor.Mode) -> instructor.Instructor:
    raw = openai.OpenAI(base_url=f"{url}/v1", api_key="-", max_retries=0)
    return instructor.from_openai(raw, mode=mode)


@pytest.mark.parametrize(
    "mode",
    [
        instructor.Mode.TOOLS,
        instructor.Mode.TOOLS_STRICT,
        instructor.Mode.JSON_SCHEMA,
    ],
)
@pytest.mark.parametrize("text", ["A 'Jason' of 25", "Hello!"])
def test_an_answer_has_its_type(url: str, mode: instructor.Mode, text: str) -> None:
    """The grammar sees to it: no retry is allowed."""
    user = client(url, mode).chat.completions.create(
        model=MODEL,
        response_model=User,
        max_retries=1,
        messages=[{"role": "user", "content": text}],
    )
    assert isinstance(user, User)


def test_json_mode(url: str) -> None:
    """Any JSON object is allowed: the model has to know which one is meant."""
    wanted = '{"name": "Jason", "age": 25, "role": "guest"}'
    user = client(url, instructor.Mode.JSON).chat.completions.create(
        model=MODEL,
        response_model=User,
        max_retries=1,
        messages=[{"role": "user", "content": f"Give me {wanted}"}],
    )
    assert user.model_dump_json() == User.model_validate_json(wanted).model_dump_json()


def test_partial_answers_are_streamed(url: str) -> None:
    users = list(
        client(url, instructor.Mode.TOOLS).chat.completions.create_partial(
            model=MODEL,
            response_model=User,
            messages=[{"role": "user", "content": "A 'Jason' of 25"}],
        )
    )
    assert len(users) > 1
    assert users[-1].name == "Jason"


def test_parallel_tools(url: str) -> None:
    calls = client(url, instructor.Mode.PARALLEL_TOOLS).chat.completions.create(
        model=MODEL,
        response_model=Iterable[User],
        messages=[
            {
                "role": "user",
                "content": 'call User({"name": "A", "age": 1, "role": "guest"}) and '
                'call User({"name": "B", "age": 2, "role": "admin"})',
            }
        ],
    )
    assert [user.name for user in calls] == ["A", "B"]
