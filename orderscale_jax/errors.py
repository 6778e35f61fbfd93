"""What a user can put right: the one kind of error that is expected, told in one sentence."""


class UserError(ValueError):
    """Something that was given is wrong.

    The text is one sentence: what was wrong, what was expected, what to do. Every other error is a
    defect of this library or of another, or of the machine, and keeps its traceback.
    """


class MissingPackage(UserError, ModuleNotFoundError):
    """An optional package is needed and not installed."""
