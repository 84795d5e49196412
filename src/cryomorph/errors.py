"""The one exception that users are meant to see."""


class InputError(Exception):
    """Something in the user's input is wrong.

    The message is one line: which file, which row or field, what was expected and what to do. The command line prints
    it and exits with code 2; nothing is written over.
    """
