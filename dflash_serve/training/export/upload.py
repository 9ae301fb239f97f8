"""A written drafter to the Hugging Face hub, as one commit. Knows no drafters."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from dflash_serve.adapters.base import AdapterError
from dflash_serve.training.data.hub import HttpError

_REFUSALS = (HttpError, OSError, RuntimeError, ValueError)
"""What the hub's client raises where the network, the hub or its storage refuses."""


def check_repo(name: str, *, public: bool) -> None:
    """What can be known of a repository before anything is written or uploaded.

    Raises:
        AdapterError: ``name`` is no OWNER/NAME, there is no token, the hub cannot be reached, or
            the repository exists and is not as private as wanted.
    """
    if name.count("/") != 1:
        raise AdapterError(f"--hf-repo is {name}, but must be OWNER/NAME")
    if get_token() is None:
        raise AdapterError("--hf-repo needs a token of the hub: set HF_TOKEN or run hf auth login")
    with _refusals(f"{name} cannot be looked up on the hub"):
        try:
            private = bool(HfApi().model_info(name).private)
        except HFValidationError as error:
            raise AdapterError(f"--hf-repo is {name}, but must be OWNER/NAME: {error}") from error
        except RepositoryNotFoundError:
            return
    if private == public:
        found, wanted = ("private", "without") if private else ("public", "with")
        raise AdapterError(f"{name} exists on the hub and is {found}: upload {wanted} --public")


def upload(folder: Path, files: Sequence[str], name: str, *, public: bool) -> str:
    """Create the repository if it is not there and commit ``files`` of ``folder``; its address."""
    api = HfApi()
    added = [CommitOperationAdd(file, str(folder / file)) for file in files]
    with _refusals(f"{folder} is written, but cannot be uploaded to {name}"):
        address = api.create_repo(name, private=not public, exist_ok=True)
        api.create_commit(name, added, commit_message="Upload a drafter")
    return str(address)


@contextmanager
def _refusals(what: str) -> Iterator[None]:
    try:
        yield
    except _REFUSALS as error:
        raise AdapterError(f"{what}: {' '.join(str(error).split())[:300]}") from error
