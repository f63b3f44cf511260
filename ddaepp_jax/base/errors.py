"""The errors that programs tell in one line."""


class InputError(ValueError):
    """Something that the user gave is wrong: a config field, a file, a flag.

    The message is one line that names the field or the file, says what is wrong with it, and how to
    mend it. Programs print it without a traceback and exit with code 2; library callers may catch
    it as a ``ValueError``.
    """


class NonFiniteError(RuntimeError):
    """Training met a loss or gradient that is not finite. Nothing of that step or after it was
    saved.
    """


def first_line(error: BaseException) -> str:
    """Somebody else's error in one line of bearable length: a long one keeps its two ends."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:98]} .. {text[-98:]}"
