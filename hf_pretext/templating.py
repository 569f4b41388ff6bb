"""What renders the templates of cards and pages. Each template is parsed once in a process."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def templates_with(*filters: Callable[..., Any], **options: Any) -> "Environment":
    """Make what loads the library's templates, in which a name that is not given is an error.

    Args:
        *filters (`Callable`): Functions that templates use by their names, without a leading underscore.
        **options: Options of jinja2's `Environment` beside the common ones, such as `autoescape`.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("hf_pretext"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **options
    )
    templates.filters.update({each.__name__.removeprefix("_"): each for each in filters})
    return templates
