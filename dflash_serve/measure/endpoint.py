"""What asking an OpenAI-compatible server over HTTP begins with: its address, its model, a key."""

import httpx

from dflash_serve.measure.errors import DataError

FAILED = (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError)
"""What goes wrong with a request, or with reading a reply that is not as it should be."""


def base_url(url: str) -> str:
    """With /v1 at its end.

    Raises:
        DataError: no URL.
    """
    if not url.startswith(("http://", "https://")):
        raise DataError(f"the URL is {url!r}, but must start with http:// or https://")
    stem = url.rstrip("/")
    return stem if stem.endswith("/v1") else f"{stem}/v1"


def headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}


def first_model(url: str, api_key: str | None = None) -> str:
    """The first id of GET /models; ``url`` ends in /v1.

    Raises:
        DataError: the server cannot be reached, or lists nothing.
    """
    try:
        reply = httpx.get(f"{url}/models", headers=headers(api_key), timeout=30.0)
        reply.raise_for_status()
        return str(reply.json()["data"][0]["id"])
    except httpx.TransportError as error:
        raise DataError(f"{url} cannot be reached: {reason(error)}") from error
    except FAILED as error:
        raise DataError(f"{url}/models names no model ({reason(error)}): give --model") from error


def reason(error: Exception) -> str:
    """One line; a refusal with what the server said."""
    text = str(error) or type(error).__name__
    if isinstance(error, httpx.HTTPStatusError):
        text = f"status {error.response.status_code}: {error.response.text}"
    if isinstance(error, httpx.TimeoutException):
        text = f"no answer in time ({type(error).__name__})"
    if isinstance(error, LookupError):
        text = f"the reply lacks {error}"
    return " ".join(text.split())[:300]
