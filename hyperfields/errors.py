"""The one exception that means "the user can fix this"."""


class InputError(ValueError):
    """Something the user gave cannot be used: a file, a folder, an argument.

    The message is one line: the name of the file or argument, what came, what was wanted, what to do.
    The command line prints it without a traceback and exits with code 2.
    """
