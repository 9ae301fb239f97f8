"""dflash-train adapt: a drafter for one's own traffic, kept only if it is better there."""

from dflash_serve.training.commands.options import command
from dflash_serve.training.export.settings import AdaptSettings


@command(AdaptSettings)
def adapt(settings: AdaptSettings) -> int:
    """Fine-tune a drafter on recorded requests; written only if better on held-out ones.

    Exit code 1 says that it was not better and that nothing was written.
    """
    from dflash_serve.measure.tables import console
    from dflash_serve.training.export.adapt import adapt_drafter

    return adapt_drafter(settings, console(soft_wrap=True))
