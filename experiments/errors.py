"""The one error that the command line reports as a line instead of a traceback."""


class Failure(Exception):
    """An error of the user, such as an unknown id or a path that cannot be written: one line, exit status 2."""


class InUse(Failure):
    """Another process holds what is needed, such as the folder of a run; it will be free when that process ends."""
