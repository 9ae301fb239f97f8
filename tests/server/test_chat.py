"""Chat completions over a real socket, through OpenAI's own client."""

import openai
import pytest

from dflash_serve.server.tokenizer import ChatTokenizer
from tests.fakes import FakeEngine, make_app, saying, serving

HELLO = [{"role": "user", "content": "hello"}]


def test_a_whole_answer_has_the_shape_of_openai(tokenizer: ChatTokenizer) -> None:
    engine = FakeEngine(saying(tokenizer, "The quick brown fox"))
    with serving(make_app(engine, tokenizer)) as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key="none")
        with client:
            answer = client.chat.completions.create(model="fake/model", messages=HELLO)
    assert answer.choices[0].message.content == "The quick brown fox"
