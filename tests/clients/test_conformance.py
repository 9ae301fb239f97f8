"""llm-comply: answers of every door against the published API schemas, by its own command."""

import json
import subprocess
import sys

import pytest

from tests.clients.conftest import MODEL

NOT_FOR_US = {
    "chat-image-input": "no target here takes images: refused by name",
    "anth-image-input": "no target here takes images: refused by name",
    "image-input": "no target here takes images: refused by name",
    "compact-response": "/v1/responses/compact is not served",
    "compact-missing-model": "/v1/responses/compact is not served",
}


@pytest.mark.parametrize("door", ["openai-chat", "open-responses", "anthropic"])
def test_door(url: str, door: str, subtests: pytest.Subtests) -> None:
    command = [sys.executable, "-m", "llm_comply.cli", "--json", "--format", door]
    done = subprocess.run(
        [*command, "-u", f"{url}/v1", "-k", "-", "-m", MODEL],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    report = json.loads(done.stdout)
    assert report["results"], done.stderr
    for result in report["results"]:
        with subtests.test(result["id"]):
            if result["id"] in NOT_FOR_US:
                pytest.skip(NOT_FOR_US[result["id"]])
            if result["status"] == "skipped":
                pytest.skip("; ".join(result["errors"]))
            wrong = [*result.get("errors", []), *result.get("warnings", [])]
            if wrong:
                pytest.fail("\n".join(wrong), pytrace=False)
