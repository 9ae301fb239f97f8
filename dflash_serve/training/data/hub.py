"""Whether the hub can be reached for a data set, found out at once."""

from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from dflash_serve.measure.errors import DataError

_PROBE_SECONDS = 10
HttpError: Any = HfHubHTTPError.__bases__[0]
"""Base of what the hub's HTTP library raises: which library that is differs between releases."""


def reach_hub(name: str) -> None:
    """Return at once if the hub has data set ``name``, or if only its cache is to be used.

    Raises:
        DataError: the hub cannot be reached, or has no such data set.
    """
    try:
        # load_dataset alone retries for half a minute without a network
        HfApi().dataset_info(name, timeout=_PROBE_SECONDS)
    except OfflineModeIsEnabled:
        pass  # what is cached will do
    except (HfHubHTTPError, HFValidationError) as error:
        raise DataError(f"cannot get {name} from the hub: {first_line(error)}") from error
    except (HttpError, OSError) as error:
        raise DataError(
            f"the hub cannot be reached for {name} (HF_HUB_OFFLINE=1 uses what is cached)"
        ) from error


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
