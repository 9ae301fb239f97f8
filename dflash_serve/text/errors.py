"""What the text side refuses. Messages are for users."""


class TemplateError(Exception):
    """The chat template refuses these messages; the text is the template's own."""

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message)
        self.param = param
