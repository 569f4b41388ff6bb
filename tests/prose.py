"""`python tests/prose.py [FILE ...]`: checks the language of Markdown files, by default of all in the repository.

A sentence has at most 34 words, no semicolon, and none of the turns that the project has plainer words for. Code and
quotations are left out. It prints `file:line: what is wrong`, and exits with status 1 if anything is.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
MAX_WORDS = 34
TURNS = {
    "anew": "again",
    "at fault": "is invalid",
    "by the fall of a coin": "by a fair coin",
    "does without": "does not need",
    "everybody may know": "public",
    "for want of": "because there is no",
    "goes on from there": "continues",
    "goes on with": "continues with",
    "go on from there": "continue",
    "in the place of": "instead of",
    "is none": "is not a valid ...",
    "nobody": "no one",
    "once a round": "once per round",
    "so long as": "as long as",
    "so many": "that many",
    "speaks for": "suggests",
    "stands in": "is stored in",
    "takes part": "participates",
    "tells whether": "shows whether",
    "two a client": "two per client",
}
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')*]*\s+(?=[\"'(*]*[A-Z0-9`])|(?<=:)\s*$")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|al|vs|Dr|approx|Fig|No)\.")


def passages(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the words of each paragraph, list item and table cell, without code."""
    line = 0
    in_quotation = 0
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        in_quotation += {"blockquote_open": 1, "blockquote_close": -1}.get(token.type, 0)
        if token.map:
            line = token.map[0] + 1
        if token.type == "inline" and not in_quotation:
            words = (
                {"code_inline": "`code`", "softbreak": " ", "hardbreak": " ", "image": ""}.get(each.type, each.content)
                for each in token.children or ()
                if each.type != "html_inline"
            )
            yield line, "".join(words)


def faults(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line of each fault, and what is wrong."""
    body = re.sub(r"\A---\n.*?\n---\n", lambda header: "\n" * header[0].count("\n"), text, flags=re.S)
    for line, passage in passages(body):
        is_figures = sum(map(str.isdigit, passage)) > sum(map(str.isalpha, passage))
        if ";" in passage and not is_figures:
            yield line, f"a semicolon: {passage[max(0, passage.index(';') - 40) :][:60]!r}"
        for sentence in _SENTENCE_END.split(_ABBREVIATIONS.sub(r"\1", passage)):
            words = [word for word in sentence.split() if any(map(str.isalnum, word))]
            if len(words) > MAX_WORDS and not is_figures:
                yield line, f"{len(words)} words: {' '.join(words[:9])} ..."
        for turn, better in TURNS.items():
            if re.search(rf"\b{turn}\b", passage, re.IGNORECASE):
                yield line, f"{turn!r}: say {better!r}"


def main(paths: list[str]) -> int:
    """Check the files, and return the exit status."""
    if not paths:
        listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, check=True, capture_output=True, text=True)
        paths = [str(ROOT / path) for path in listed.stdout.splitlines()]
    found = [(path, *fault) for path in paths for fault in faults(Path(path).read_text(encoding="utf-8"))]
    for path, line, fault in found:
        print(f"{path}:{line}: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
