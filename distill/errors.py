"""The one exception for a user's mistake; the command line prints it without a traceback."""


class UserError(Exception):
    """Something the user can mend: the message says what was found, where, what was expected, and how to mend it."""
