"""The one exception that means "the user can fix this"."""

import re

# What would break a line, move a terminal's cursor or turn its text round, or cannot be printed.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a folder, an argument.

    The message is one line: the name of the file or argument, what came, what was wanted, what to do.
    The command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, message: str = "") -> None:
        """message: what files bring into it cannot break the line."""
        super().__init__(CONTROL.sub(lambda found: ascii(found[0])[1:-1], message))


class NoViews(InputError):
    """A scene has no pictures for what was asked: it is left out where others have some."""
