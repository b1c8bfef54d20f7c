"""The one error type of the package."""


class AOTError(ValueError):
    """A setting or an input that the method cannot use; the message says what to change."""
