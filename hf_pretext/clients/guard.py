"""What gets out of the private side beside releases: that something failed, the name of the error's type, warnings."""

import logging
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Result = TypeVar("Result")
Given = ParamSpec("Given")

logger = logging.getLogger(__name__)


def tell_owner(message: str, stacklevel: int = 5) -> None:
    """Warn the owner of private texts of what was found in them, at the console of the trusted side.

    Where warnings are errors (`PYTHONWARNINGS=error`), it is logged. A single client's text, of which it may tell,
    must not decide whether a run takes place, or whether a release is lost.
    """
    try:
        warnings.warn(message, stacklevel=stacklevel)
    except Warning:
        logger.warning("%s", message)


def attempted(
    work: Callable[Given, Result], *arguments: Given.args, **options: Given.kwargs
) -> tuple[Result | None, str | None]:
    """Do work on private text, and return its result, or else the name of the type of its error.

    Released to no one. The words of an error may quote a text, and the frames of its traceback hold what was being
    computed: embeddings, clean sums, noise. Whatever reports a crash may store both. Here the error ends with both.

    Every error counts, also one that is no `Exception`. The panic of a tokenizer that is written in Rust is such a one
    (`pyo3_runtime.PanicException`). Only `KeyboardInterrupt` and `SystemExit`, by which someone ends the process, are
    raised again, without the frames.

    Args:
        work (`Callable`): The work.
        *arguments: Its arguments.
        **options: Its keyword arguments.

    Returns:
        `tuple` of a result and a `str`: One of them is None, unless `work` returned None.
    """
    try:
        return work(*arguments, **options), None
    except BaseException as error:
        kind = type(error)
    # Raised out here, so that the other error with its frames stays behind.
    for ending in (KeyboardInterrupt, SystemExit):
        if issubclass(kind, ending):
            raise ending
    return None, kind.__name__
