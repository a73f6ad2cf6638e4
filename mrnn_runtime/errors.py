"""The one exception tree of the runtime.

::

    MrnnError             what went wrong, where, and a hint that says what to do
    ├── UsageError        something does not exist, or options do not fit together
    ├── ImageError        one image could not be read
    ├── BundleError       a bundle is missing, damaged, unsafe or from a newer format
    ├── ProviderError     the execution provider that was named is not really there
    └── PluginError       a plugin failed, clashes with another or is misspelt

The command line maps them to exit codes: UsageError 2; BundleError, ProviderError and PluginError
3; an ImageError becomes one record and the run ends with 1.
"""

from __future__ import annotations


class MrnnError(Exception):
    """Base of every error that the runtime raises on purpose.

    Attributes:
        message: what went wrong and where, one line.
        hint: what to do about it, one line, or the empty string.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        """Keep the message and the hint apart, so that a caller can show them apart."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __eq__(self, other: object) -> bool:
        """Two errors of one class that say the same are equal, so that results can be compared."""
        return type(self) is type(other) and str(self) == str(other)

    def __hash__(self) -> int:
        """Return what equal errors share."""
        return hash((type(self), str(self)))

    def __str__(self) -> str:
        """Return the message, and the hint behind it where there is one."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(MrnnError):
    """The caller named something that does not exist, or options that do not fit together."""


class ImageError(MrnnError):
    """One image could not be read; the others are not affected."""


class BundleError(MrnnError):
    """A bundle is missing, damaged, unsafe or from a newer format."""


class ProviderError(MrnnError):
    """The execution provider that was named is not really there."""


class PluginError(MrnnError):
    """A plugin failed to load, clashes with another or implements no known hook."""


def describe(error: BaseException) -> str:
    """Return an error as one line."""
    text = str(error) if isinstance(error, MrnnError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
