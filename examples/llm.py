"""The engine without a server: one prompt, a stream, a batch, structured output, statistics.

Runs on the embedded demo pair: ``python examples/llm.py``. Give other models to `LLM` by
directory or hub id, as to ``dflash-serve --target``.
"""

import json

from dflash_serve import LLM, LLMError

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def main() -> None:
    """Every way to ask."""
    with LLM() as llm:  # LLM("Qwen/Qwen3-8B") finds its published drafter
        hello = [{"role": "user", "content": "Hello!"}]
        answer = llm.chat(hello, temperature=0, max_tokens=32)
        print("chat:     ", answer.text)

        print("stream:   ", end=" ")
        for piece in llm.stream_chat(hello, temperature=0, max_tokens=32):
            print(piece.text, end="", flush=True)
        print()

        questions = [f"What is {number} plus {number}?" for number in range(1, 5)]
        chats = [[{"role": "user", "content": question}] for question in questions]
        for question, each in zip(questions, llm.chat(chats, temperature=0), strict=True):
            print("batch:    ", question, " ".join(each.text.split()))

        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        person = llm.chat(hello, temperature=0, max_tokens=200, response_format=form)
        print("json:     ", json.loads(person.text))

        usage = answer.usage
        print(
            f"statistics: {usage.completion_tokens} tokens in {usage.rounds} rounds, "
            f"{usage.tokens_per_round:.2f} tokens per round, "
            f"{usage.accepted} of {usage.drafted} drafted tokens accepted, "
            f"{usage.tokens_per_second:.0f} tokens per second, "
            f"first token after {usage.time_to_first_token:.3f} s"
        )

        try:
            llm.chat(hello, temperature=3)
        except LLMError as error:
            print("refused:  ", error)


if __name__ == "__main__":
    main()
