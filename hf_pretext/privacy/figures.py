"""How an epsilon or a delta is shown: in one way everywhere, and never as less than it is."""

import math
from decimal import ROUND_CEILING, Decimal


def rounded_up(value: float, digits: int = 4) -> str:
    """Show a positive number with this many digits, and never as less than it is, as befits an epsilon or a delta.

    A number that has no more digits than that is shown as it is: `1e-05` stays `1e-05`. So what counts is the decimal
    that the number was written as, and not its binary fraction, which may lie a little above it.

    Args:
        value (`float`): The number. Zero, infinity and NaN are shown as they are.
        digits (`int`, *optional*, defaults to `4`): Number of digits.
    """
    if not 0 < value < math.inf:
        return f"{value:g}"
    exact = Decimal(repr(float(value)))
    step = Decimal(1).scaleb(exact.adjusted() + 1 - digits)
    return f"{float(exact.quantize(step, ROUND_CEILING)):.{digits}g}"
