"""What a server that was only started refuses: pages, names, /admin. And what it warns of."""

import json
import urllib.request

import httpx
import openai

from tests.e2e.conftest import Start
from tests.e2e.server import MODEL, PairPaths, ServerProcess, ask, body

CHAT = "/v1/chat/completions"


def test_a_server_with_default_options_serves_its_user_only(
    server: ServerProcess, url: str
) -> None:
    page = {"Origin": "http://evil.example"}
    assert httpx.post(url + CHAT, json=body(), headers=page, timeout=60).status_code == 403
    rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert httpx.post(url + CHAT, json=body(), headers=rebound, timeout=60).status_code == 421
    plain = {"Content-Type": "text/plain"}
    assert httpx.post(url + CHAT, content=b"{}", headers=plain, timeout=60).status_code == 415
    admin = httpx.post(f"{url}/admin/drafter", json={"drafter": "/etc"}, timeout=60)
    assert admin.status_code == 403
    own = {"Origin": url}
    assert httpx.post(url + CHAT, json=body(), headers=own, timeout=60).status_code == 200
    assert "without --api-key" not in server.log


def test_stock_clients_are_served(url: str) -> None:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-") as client:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=4
        )
        assert answer.choices[0].finish_reason
    asked = json.dumps(body()).encode()
    request = urllib.request.Request(url + CHAT, asked, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as plain:
        assert json.load(plain)["object"] == "chat.completion"


def test_an_open_address_without_a_key_is_warned_of(pair: PairPaths, start: Start) -> None:
    options = ["--port", "0", "--host", "0.0.0.0", "--max-connections", "4", "--admin-key", "rule"]
    server = start(*pair.options(), *options)
    url = server.ready().replace("0.0.0.0", "127.0.0.1")
    assert "listening on 0.0.0.0 without --api-key" in server.log
    assert ask(url)
    name = {"Host": "some.name:80"}
    assert httpx.get(f"{url}/v1/models", headers=name, timeout=60).status_code == 200
    key = {"Authorization": "Bearer rule"}
    assert httpx.get(f"{url}/admin/drafter", headers=key, timeout=60).status_code == 200
