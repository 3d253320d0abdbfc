"""The one error that the command line reports as a line instead of a traceback."""


class Failure(Exception):
    """An error of the user, such as an unknown id or a path that cannot be written: one line, exit status 2."""
