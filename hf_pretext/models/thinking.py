"""Reasoning models: what they think before they answer is not text."""

import logging
from collections.abc import Sequence

logger = logging.getLogger(__name__)

FINAL_CHANNEL = "<|channel|>final<|message|>"

TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    ("<|channel|>analysis", FINAL_CHANNEL),
)
"""What begins and ends a model's thinking."""

NO_THINKING = {"enable_thinking": False, "thinking": False, "thinking_budget": 0}
"""Arguments of chat templates that turn it off. A template ignores those that it does not know."""


def begin_answer(end_of_prompt: str, template: str) -> str:
    """Close the thinking that a chat's prompt has opened, so that the model begins with its answer.

    Args:
        end_of_prompt (`str`): What the template writes after the turn of the user.
        template (`str`): The chat template.
    """
    for opening, closing in TAGS:
        if end_of_prompt.rfind(opening) > end_of_prompt.rfind(closing):
            return f"{end_of_prompt.rstrip()}\n\n{closing}\n\n"
    has_channels = FINAL_CHANNEL in template and FINAL_CHANNEL not in end_of_prompt
    return f"{end_of_prompt}{FINAL_CHANNEL}" if has_channels else end_of_prompt


def without_thinking(texts: Sequence[str], in_chat: bool = False) -> list[str]:
    """Cut off what a model thought. Of a text that is only thinking, whose end is missing, nothing is left.

    Args:
        texts (`Sequence[str]`): What the model wrote for prompts of one kind.
        in_chat (`bool`, *optional*, defaults to `False`):
            Whether a template that is not known may have begun the thinking. If one of the texts ends a thinking that
            it did not begin, the template has, and the texts that do not end it are only thinking.
    """
    begun = {closing for text in texts for opening, closing in TAGS if closing in text.partition(opening)[0]}
    answers = [_answer_in(text, begun if in_chat else set()) for text in texts]
    lost = sum(not answer and bool(text.strip()) for answer, text in zip(answers, texts, strict=True))
    if lost:
        logger.warning(
            "%d of %d texts of `expansion_model` were only thinking, which is no text. Turn its thinking off, or use "
            "another model.",
            lost,
            len(texts),
        )
    return answers


def _answer_in(text: str, begun: set[str]) -> str:
    if begun and not any(closing in text for closing in begun):
        return ""
    for opening, closing in TAGS:
        if closing in text:
            text = text.rpartition(closing)[2].lstrip()
        text = text.partition(opening)[0]
    return text
