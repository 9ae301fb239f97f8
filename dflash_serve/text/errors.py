"""What the text side refuses. Messages are for users."""


class TextTooLong(Exception):
    """The text is too long for a limit of tokens, however it is encoded: ``least`` it has."""

    def __init__(self, least: int) -> None:
        super().__init__(f"the text has at least {least} tokens")
        self.least = least


class TemplateError(Exception):
    """The chat template refuses these messages; the text is the template's own."""

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message)
        self.param = param
