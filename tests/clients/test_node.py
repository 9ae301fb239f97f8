"""JavaScript clients: each script of ``node/`` checks one, and says how each check went."""

from collections.abc import Callable
from typing import Any

import pytest

Node = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize(
    "script", ["openai.mjs", "anthropic.mjs", "ai-sdk.mjs", "compatcanary.mjs"]
)
def test_checks(node: Node, script: str, subtests: pytest.Subtests) -> None:
    for name, error in node(script).items():
        with subtests.test(name):
            if error is not None:
                pytest.fail(error, pytrace=False)
