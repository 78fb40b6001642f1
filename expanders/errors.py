"""The exceptions of the package; all have messages of one line."""

from typing import Any, get_args


class SettingError(ValueError):
    """A setting that cannot work. Its message is one line: the setting, its value, what to do.

    `setting` is the name that a user can change: a key on the command line (`degree.value`) or
    a parameter of the function called.
    """

    def __init__(self, setting: str, value: object, remedy: str) -> None:
        message = f"{setting}={value}: {remedy}".replace("\n", "\\n")
        # Names of files need not be UTF-8; what prints or logs the message would stumble over them.
        super().__init__(message.encode("utf-8", "backslashreplace").decode())
        self.setting = setting
        self.value = value
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[str, object, str]]:
        # Exceptions are rebuilt from `args` by default, which here is the finished message.
        return type(self), (self.setting, self.value, self.remedy)


class DamagedError(SettingError):
    """A file whose content is proved to be wrong, which one that cannot be read just now is not."""


class DivergedError(RuntimeError):
    """The loss became infinite or not a number. The message names the epoch and the step."""


class TeamError(RuntimeError):
    """Another process of the same run failed, so that this one cannot go on."""


def one_line(error: object) -> str:
    """What an exception says, in one line; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def check_choice(setting: str, value: object, choices: Any) -> None:
    """Raise `SettingError` unless the value is one of `choices`, a `Literal` of a signature."""
    options = get_args(choices)
    if value not in options:
        *others, last = map(str, options)
        raise SettingError(setting, value, f"choose {', '.join(others)} or {last}")
