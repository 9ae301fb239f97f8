"""Wire types of /admin."""

from pydantic import Field

from dflash_serve.server.protocol.common import RequestModel, ResponseModel


class DrafterChange(RequestModel):
    """``drafter``: auto, none, a directory or a hub id, as --drafter takes it."""

    drafter: str = Field(min_length=1, max_length=4096)


class DrafterState(ResponseModel):
    """What drafts now; ``drafter`` is null where decoding is plain."""

    drafter: str | None
    block_size: int
    fingerprint: str | None
