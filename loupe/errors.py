"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Bad input: one line that says what is wrong, where (file, key, view) and what to do.

    Steps print the line and exit with status 2, without a traceback.
    """
