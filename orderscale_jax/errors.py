"""What a user can put right: the one kind of error that is expected, told in one sentence."""


class UserError(ValueError):
    """Something that was given is wrong.

    The text is one sentence: what was wrong, what was expected, what to do. Every other error is a
    defect of this library or of another, or of the machine, and keeps its traceback.
    """


class MissingPackage(UserError, ModuleNotFoundError):
    """An optional package is needed and not installed."""


def check_kind(name: str, value: object, kind: type):
    """UserError unless the argument `name` is of a class, as the most natural mistake is to give another."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise UserError(f"{name} must be {article} {kind.__name__}, got {type(value).__name__}")
