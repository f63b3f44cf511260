"""Errors that programs print in one line."""


class InputError(ValueError):
    """A wrong config field, file or argument.

    The message is one line: it begins with the field or the file, says what is wrong with it, and
    ends with the mend. Programs print it without a traceback and exit with code 2; callers of
    the library may catch it as a ``ValueError``.
    """


class NonFiniteError(RuntimeError):
    """A loss, gradient or sampled image that is not finite; it and what follows is not saved.

    Attributes:
      step: step of the loss or gradient; None for an image.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class SaveError(RuntimeError):
    """A checkpoint or snapshot that cannot be written; what was saved before is good.

    The message is one line, which names the directory, the reason and the mend.
    """


class Stopped(KeyboardInterrupt):
    """The end of a training that a signal stopped after its state was saved.

    Attributes:
      exit_code: exit code of the program, 128 plus the signal's number.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return Stopped, (str(self), self.exit_code)  # One process tells the others.


def shown(value: object) -> str:
    """Returns the repr of a value on one line; beyond 100 characters, its two ends."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:48]} .. {text[-48:]}"


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error; beyond 200 characters, its two ends."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:98]} .. {text[-98:]}"
