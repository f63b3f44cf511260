"""Errors that programs print in one line."""


class InputError(ValueError):
    """A wrong config field, file or argument.

    The message is one line: it begins with the field or the file, says what is wrong with it, and
    ends with the mend. Programs print it without a traceback and exit with code 2; callers of
    the library may catch it as a ``ValueError``.
    """


class NonFiniteError(RuntimeError):
    """A loss, gradient or sampled image that is not finite; it and what follows is not saved."""


def first_line(error: BaseException) -> str:
    """Returns the first line of another library's error; beyond 200 characters, its two ends."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:98]} .. {text[-98:]}"
