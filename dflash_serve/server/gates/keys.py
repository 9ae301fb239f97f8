"""Keys: one for inference, another one for /admin. Neither opens what the other one is for."""

import hmac

from starlette.requests import Request

from dflash_serve.server.errors import ApiError
from dflash_serve.server.gates.gate import OPEN_PATHS

_ADMIN = "/admin"


class CheckKeys:
    """401 unless the request carries ``Authorization: Bearer <key>``.

    ``x-api-key: <key>`` does as well: Anthropic's clients send it. Without an inference key
    everybody may ask; without an admin key nobody may administer.
    """

    def __init__(self, api_key: str | None, admin_key: str | None) -> None:
        self._api_key = api_key
        self._admin_key = admin_key

    def __call__(self, request: Request) -> None:
        path = request.scope["path"]
        if path in OPEN_PATHS:
            return
        admin = path == _ADMIN or path.startswith(f"{_ADMIN}/")
        key = self._admin_key if admin else self._api_key
        if key is not None:
            _check(request, key.encode())
        elif admin:
            raise _admin_is_off()


def _check(request: Request, key: bytes) -> None:
    given = request.headers.get("authorization", "").encode("latin-1")
    bare = request.headers.get("x-api-key", "").encode("latin-1")
    scheme, _, token = given.partition(b" ")
    # both comparisons always run, each in a time that does not depend on the key
    by_token = hmac.compare_digest(token.strip(), key) and scheme.lower() == b"bearer"
    by_name = hmac.compare_digest(bare, key)
    if not (by_token or by_name):
        raise _unauthorized(bool(given or bare))


def _unauthorized(given: bool) -> ApiError:
    message = (
        "Incorrect API key provided: it is not the one that this server expects."
        if given
        else "You didn't provide an API key; send it as 'Authorization: Bearer KEY'."
    )
    headers = {"WWW-Authenticate": "Bearer"}
    return ApiError(401, message, code="invalid_api_key", headers=headers)


def _admin_is_off() -> ApiError:
    message = (
        "/admin is switched off. Start the server with --admin-key KEY to switch it on; "
        "the key of --api-key does not open it."
    )
    return ApiError(403, message, kind="permission_error", code="admin_disabled")
