"""Running of a recipe: an error that the user can mend is one line."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)


def run_recipe(main: Callable[..., None], parser: Any) -> None:
    """Run a recipe's `main` with what its `TrlParser` reads. An error that the user can mend is one line.

    Args:
        main (`Callable`): Takes the parsed dataclasses.
        parser (`trl.TrlParser`): Reads `--config FILE.yaml`, whose unknown keys are an error, and the command line.
    """
    try:
        main(*parser.parse_args_and_config())
    except (ValueError, TypeError, OSError, ImportError) as error:
        logger.debug("The recipe failed.", exc_info=True)
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
