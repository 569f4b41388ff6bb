"""The paper's prompt, a list of samples that a language model continues: how it is written, and read back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .cleaning import clean_text, one_line, whole_sentences
from .configuration import HEADING, TITLE, PrivateEvolutionConfig


@dataclass(frozen=True)
class ListPrompt:
    """A list of samples, each below a heading with its number.

    Args:
        title (`str`, *optional*): First line of the list. `{size}` in it becomes the number of samples.
        heading (`str`, *optional*): Heading of a sample, without its number.
        domain (`str`, *optional*): What the texts are, in a few public words. The paper's prompt does not say it.
    """

    title: str = TITLE
    heading: str = HEADING
    domain: str | None = None

    @classmethod
    def of(cls, config: PrivateEvolutionConfig) -> "ListPrompt":
        """Make the prompt that a configuration describes."""
        return cls(config.list_title, config.list_heading, config.domain)

    def write(self, seeds: Sequence[str], num_new: int) -> str:
        """Write the prompt, up to the heading of the first text that is to be written.

        Args:
            seeds (`Sequence[str]`):
                Texts to show. One of several lines stands there as it is. The words of the heading are in lower case
                there, so that no text holds one.
            num_new (`int`): Number of texts that are to follow.
        """
        # With the paper's three seeds the list has six samples. A longer continuation needs a longer list.
        size = max(2 * len(seeds), len(seeds) + num_new)
        samples = [f"{self.start(number)}{self._shown(seed)}\n" for number, seed in enumerate(seeds, start=1)]
        about = f" ({one_line(self.domain)})" if self.domain else ""
        title = self.title.replace("{size}", str(size))
        return f"{title}{about}:\n{''.join(samples)}{self.start(len(seeds) + 1)}"

    def read(self, continuation: str, num_new: int, with_lines: bool = False) -> list[str]:
        """Read the texts that a model wrote after the prompt.

        Only a line that is a heading of the list and nothing else ends a text, so a text may hold any of its words. A
        text that no heading ends, because the token limit came first, is cut back to its last whole sentence. The
        first text counts even without one, as in the paper.

        Args:
            continuation (`str`): What the model wrote.
            num_new (`int`): Number of texts to read at most.
            with_lines (`bool`, *optional*, defaults to `False`):
                Whether texts may have several lines, because some seed of the prompt had. Else each is put on one.

        Returns:
            `list` of `str`: The texts. Some may be empty.
        """
        *parts, rest = self._heading_line.split(re.sub(r"\r\n?", "\n", continuation))
        *ended, last = (clean_text(part, with_lines) for part in (*parts, self._without_begun_heading(rest)))
        last = whole_sentences(last) or ("" if ended else last)
        return [*ended, last][:num_new]

    def read_filled(self, begun: str, piece: str, end: str | None, with_lines: bool = False) -> str:
        """Read a text whose last piece a model filled in. Up to its end it is whole, also without a full stop.

        Args:
            begun (`str`): The text before that piece.
            piece (`str`): What the model wrote, maybe beyond the end.
            end (`str`, *optional*): What ends the piece: a line break, or the last words of a template.
            with_lines (`bool`, *optional*, defaults to `False`): Whether the text may have several lines.
        """
        head, found, _ = piece.partition(end) if end else (piece, "", "")
        text = clean_text(begun + head, with_lines) if found else self.read(begun + piece, 1, with_lines)[0]
        # A server does not send the words at which it stopped.
        closing = end if end and end.strip() else ""
        return text if text.endswith(closing) else text + closing

    def start(self, number: int) -> str:
        """Return the heading of a sample, as a line."""
        return f"{self.stop(number)}\n"

    def stop(self, number: int) -> str:
        """Return what a continuation holds when the sample of this number begins."""
        return f"{self.heading} {number}"

    def _shown(self, seed: str) -> str:
        shown = self._words.sub(lambda words: words.group().lower(), clean_text(seed, with_lines=True))
        # A script may have no lower case.
        return self._heading_line.sub(lambda line: f"({line.group().strip()})", shown)

    def _without_begun_heading(self, text: str) -> str:
        """Leave out a last line in which the token limit came before a heading was written."""
        before, line_break, last = text.rpartition("\n")
        last, first_word = " ".join(last.split()), self.heading.split()[0]
        is_begun = bool(line_break) and last.startswith(first_word) and " ".join(self.heading.split()).startswith(last)
        return before if is_begun else text

    @cached_property
    def _words(self) -> re.Pattern[str]:
        return re.compile(r"[ \t]+".join(map(re.escape, self.heading.split())))

    @cached_property
    def _heading_line(self) -> re.Pattern[str]:
        return re.compile(rf"^[ \t]*{self._words.pattern}[ \t]*\d+(?:[ \t]*[:：])?[ \t]*$", re.MULTILINE)


def list_prompt(seeds: Sequence[str], num_new: int, domain: str | None = None) -> str:
    """Write the paper's prompt. See `ListPrompt.write`."""
    return ListPrompt(domain=domain).write(seeds, num_new)


def parse_list(continuation: str, num_new: int) -> list[str]:
    """Read the texts that a model wrote after a list prompt, each on one line. See `ListPrompt.read`."""
    return ListPrompt().read(continuation, num_new)
