"""The one exception for what a user can mend.

`SkipwiseError` flows up from every stage to the command line, which prints its message in one line and exits with 2.
The message says what was wrong, with the value, and what to do.
"""


class SkipwiseError(ValueError):
    """Something the user gave or has cannot work; the message says what and what to do."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on whichever device."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
