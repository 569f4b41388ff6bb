"""Personal data in texts: addresses and numbers that a language model invents or repeats, found by rules.

Phone numbers are found and checked by the package `phonenumbers`. The others have a form, and most have a checksum.
Names of people have neither, so they are not looked for. What is found is not necessarily someone's: models invent
numbers.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

KINDS = ("email address", "phone number", "payment card", "bank account", "IP address")
"""What is looked for."""

REGION = "US"
"""Country whose phone numbers are found without their country code."""

FEWEST_DIGITS = 7
"""Digits of a phone number."""

FEWEST_DIGITS_OF_A_CARD = 13

HINT = "Phone numbers are found by a package: `pip install 'hf_pretext[personal]'`."

# Languages of these scripts put no blanks between words, and write the next one right beside an address: Thai to
# Tibetan, Burmese, Khmer, Kana, Han and Hangul. So a name before `@` is of them alone, or of other letters alone.
_JOINED = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u312f\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af"
    r"\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_OTHERS = rf"(?:[^\W{_JOINED}]|[+-])"
_NAME = "|".join(
    rf"(?<!{letter}){letter}{{1,64}}(?:\.{letter}{{1,64}}){{0,8}}" for letter in (_OTHERS, f"[{_JOINED}]")
)
_EMAIL = re.compile(rf"(?:{_NAME})@[A-Za-z0-9](?:[A-Za-z0-9-]{{0,62}}\.)+[A-Za-z]{{2,24}}(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<!\d)(?<!\d\.)(?:\d[ -]?){12,18}\d(?!\d|\.\d)")
_GROUP = re.compile(r"[^ -]+")
_ACCOUNT = re.compile(r"(?<![A-Z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?![A-Z0-9])")
_ADDRESS = re.compile(r"(?<!\d)(?<!\d\.)(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)")


def is_installed() -> bool:
    """Return whether the package that finds phone numbers is there."""
    return find_spec("phonenumbers") is not None


def find_personal(text: str, region: str = REGION) -> list[tuple[int, int, str]]:
    """Find personal data in a text.

    Args:
        text (`str`): The text.
        region (`str`, *optional*, defaults to `"US"`):
            Country whose phone numbers are found without their country code, as two letters.

    Returns:
        `list` of `tuple`: Where each begins and ends, and its kind, one of `KINDS`. They do not overlap.

    Raises:
        ImportError: `phonenumbers` is not installed.
        ValueError: There is no such country.
    """
    _check_region(region)
    found: list[tuple[int, int, str]] = []
    for start, end, kind in (*_by_form(text), *_phone_numbers(text, region)):
        if all(end <= first or last <= start for first, last, _ in found):
            found.append((start, end, kind))
    return sorted(found)


def scrub_text(text: str, region: str = REGION) -> str:
    """Replace personal data in a text by its kind in brackets, such as `[email address]`. See `find_personal`."""
    for start, end, kind in reversed(find_personal(text, region)):
        text = f"{text[:start]}[{kind}]{text[end:]}"
    return text


def count_personal(texts: Iterable[str], region: str = REGION) -> dict[str, int]:
    """Count the texts with personal data, by its kind. See `find_personal`."""
    counts = Counter(kind for text in texts for kind in {kind for _, _, kind in find_personal(text, region)})
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _check_region(region: str) -> None:
    """Refuse a country that `phonenumbers` does not know: it would find nothing there, without a word."""
    if not is_installed():
        raise ImportError(HINT)
    from phonenumbers import SUPPORTED_REGIONS

    if region not in SUPPORTED_REGIONS:
        raise ValueError(f"`region`={region!r} is not a country's code of two letters (ISO 3166), such as US or GB.")


def _by_form(text: str) -> Iterator[tuple[int, int, str]]:
    forms: tuple[tuple[re.Pattern[str], str, Callable[[str], bool]], ...] = (
        (_EMAIL, "email address", lambda _: True),
        (_CARD, "payment card", _is_card),
        (_ACCOUNT, "bank account", _is_account),
        (_ADDRESS, "IP address", _is_address),
    )
    for pattern, kind, is_valid in forms:
        for found in pattern.finditer(text):
            for start, end in _valid_parts(found.group(), is_valid):
                yield found.start() + start, found.start() + end, kind


def _valid_parts(found: str, is_valid: Callable[[str], bool]) -> Iterator[tuple[int, int]]:
    """Yield the valid parts of what a pattern found, which may have taken what stands around, such as a date."""
    groups = [(each.start(), each.end()) for each in _GROUP.finditer(found)]
    first = 0
    while first < len(groups):
        start = groups[first][0]
        # The longest one from here on.
        for last in range(len(groups) - 1, first - 1, -1):
            if is_valid(found[start : groups[last][1]]):
                yield start, groups[last][1]
                first = last
                break
        first += 1


def _phone_numbers(text: str, region: str) -> Iterator[tuple[int, int, str]]:
    if sum(map(str.isdigit, text)) < FEWEST_DIGITS:  # Most texts have none, and the search is slow.
        return
    from phonenumbers import PhoneNumberMatcher

    for found in PhoneNumberMatcher(text, region):
        yield found.start, found.end, "phone number"


def _is_card(found: str) -> bool:
    """Check the digits of a payment card (Luhn)."""
    digits = [int(each) for each in found if each.isdigit()]
    if len(digits) < FEWEST_DIGITS_OF_A_CARD:
        return False
    doubled = (digit if index % 2 == 0 else sum(divmod(2 * digit, 10)) for index, digit in enumerate(digits[::-1]))
    return digits[0] in (3, 4, 5, 6) and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _is_account(found: str) -> bool:
    """Check the digits of an IBAN (ISO 7064, mod 97), which begins with its country and two of them."""
    plain = found.replace(" ", "")
    return (
        len(plain) >= 15
        and plain[:2].isalpha()
        and plain[2:4].isdigit()
        and int("".join(str(int(each, 36)) for each in plain[4:] + plain[:4])) % 97 == 1
    )


def _is_address(found: str) -> bool:
    """Return whether this is an address of the public internet. Private ones say nothing of a person."""
    try:
        return ipaddress.ip_address(found).is_global
    except ValueError:
        return False
