"""The one error a user is meant to read: a single line, exit code 2."""


class UserError(ValueError):
    """Says what was expected, what came and what to do; the command line prints it without a traceback."""
