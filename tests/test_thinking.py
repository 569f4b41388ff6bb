"""What a reasoning model thinks becomes no text, on this machine and behind an address."""

import pytest
import torch
from test_served import Scripted
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from hf_pretext.configuration import PrivateEvolutionConfig
from hf_pretext.models.local_engine import LocalEngine
from hf_pretext.models.remote_engine import RemoteEngine
from hf_pretext.models.thinking import FINAL_CHANNEL, TAGS, begin_answer, without_thinking
from support.tiny import make_llama

CONFIG = PrivateEvolutionConfig(epsilon=1.0, delta=1e-5)
QWEN = (
    "{% for message in messages %}user: {{ message.content }}\n{% endfor %}assistant: "
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
GRANITE = "{{ messages[0].content }}{% if thinking is not defined or thinking %} Think first.{% endif %} >"
DEEPSEEK = "{{ messages[0].content }}<Assistant><think>\n"
HARMONY = "<|start|>user<|message|>{{ messages[0].content }}<|start|>assistant{# " + FINAL_CHANNEL + " #}"


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_only_the_answer_is_left(opening, closing):
    texts = [
        f"{opening}\nOkay, they want a rephrasing.{closing}\n\nMy card is lost.",
        f"{opening}\nOkay, they want a rephrasing. I could say",
        f"{opening}one{closing} Not this. {opening}two{closing}My card is gone.",
        "No thinking, 1 < 2 and a<b>c.",
        f"My card is lost.\n{opening} Should there be more",
    ]
    expected = ["My card is lost.", "", "My card is gone.", "No thinking, 1 < 2 and a<b>c.", "My card is lost.\n"]
    assert without_thinking(texts) == expected


def test_a_thinking_that_the_prompt_began_counts_only_if_it_ends():
    texts = ["Okay, they want it shorter.</think>\n\nMy card is lost.", "Okay, they want it shorter. So I"]
    assert without_thinking(texts, in_chat=True) == ["My card is lost.", ""]
    assert without_thinking(texts) == ["My card is lost.", texts[1]]


def test_texts_that_are_only_thinking_are_counted_in_a_warning(caplog):
    without_thinking(["<think> never", "", "a text"])
    assert "1 of 3 texts of `expansion_model` were only thinking" in caplog.text


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (QWEN, "the bank\nassistant: <think>\n\n</think>\n\n"),
        (GRANITE, "the bank >"),
        (DEEPSEEK, "the bank<Assistant><think>\n\n</think>\n\n"),
        (HARMONY, f"the bank<|start|>assistant{FINAL_CHANNEL}"),
    ],
    ids=["enable_thinking", "thinking", "already begun", "channels"],
)
def test_thinking_is_off_where_the_template_can(template, end):
    model, tokenizer = make_llama()
    tokenizer.chat_template = template
    engine = LocalEngine(model, tokenizer, CONFIG)
    asked = []
    engine._continue = lambda tokens, *_: asked.extend(tokenizer.batch_decode(tokens)) or asked
    engine.answer(["the bank"], 8, seed=0)
    assert asked[0].endswith(end)


def test_a_prompt_without_thinking_stays_as_it_is():
    assert begin_answer("<|im_start|>assistant\n", "{{ messages }}") == "<|im_start|>assistant\n"
    assert begin_answer("<think>\n</think>\n", "<think>") == "<think>\n</think>\n"


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<|channel|>", "<|message|>")])
def test_marks_that_are_special_tokens_are_seen_and_left_out(marks):
    model, _ = make_llama()
    tokenizer = make_llama()[1]
    tokenizer.add_special_tokens({"extra_special_tokens": list(marks)})
    model.resize_token_embeddings(len(tokenizer))
    engine = LocalEngine(model, tokenizer, CONFIG)
    thought = "[THINK]a[/THINK]" if marks[0] == "[THINK]" else f"<|channel|>analysis<|message|>a{FINAL_CHANNEL}"
    ids = tokenizer([f"{thought}the bank</s>"])["input_ids"]
    assert without_thinking(engine._decode_answers(torch.tensor(ids))) == ["the bank"]


def test_marks_that_are_usual_tokens_are_decoded_as_ever():
    model, tokenizer = make_llama()
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    engine = LocalEngine(model, tokenizer, CONFIG)
    ids = torch.tensor(tokenizer(["<think>the bank</s>"])["input_ids"])
    assert engine._decode_answers(ids) == ["<think>the bank"]


class Thinking(Scripted):
    """A server whose answers are what the test says, and which may refuse arguments of the template."""

    def __init__(self, messages, refuses=False):
        self.messages, self.refuses = messages, refuses
        super().__init__(lacks=["completions"])

    def finish_request(self, request, client_address):
        handler = self.RequestHandlerClass

        class Own(handler):
            def answer(own, status, content):
                body = self.requests[-1][1] if self.requests else {}
                is_trial = "choices" in content and content["choices"][0].get("message") == {"content": "."}
                if status == 200 and "choices" in content and not is_trial:
                    content["choices"][0]["message"] = self.messages[len(self.answered) % len(self.messages)]
                    if self.refuses and "chat_template_kwargs" in body:
                        return super().answer(400, {"error": "unknown argument"})
                    self.answered.append(body)
                super().answer(status, content)

        Own(request, client_address, self)

    @property
    def answered(self):
        return self.__dict__.setdefault("_answered", [])


def served(messages, refuses=False):
    server = Thinking(messages, refuses)
    return RemoteEngine(f"{server.address}#model", CONFIG, max_requests=1), server


def test_a_server_is_asked_not_to_think_and_its_thoughts_are_no_text():
    engine, server = served(
        [
            {"content": "One.", "reasoning_content": "Let me think."},
            {"content": None, "reasoning_content": "Let me think, without an end"},
            {"content": "<think>Let me think.</think>Two."},
            {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Three."}]},
        ]
    )
    assert engine.answer(["a"] * 4, 8, seed=0) == ["One.", "", "Two.", "Three."]
    assert server.answered[0]["chat_template_kwargs"]["enable_thinking"] is False


def test_a_server_that_refuses_arguments_of_the_template_is_asked_without():
    engine, server = served([{"content": "Okay, so</think>One."}, {"content": "Okay, and"}], refuses=True)
    assert engine.answer(["a"] * 4, 8, seed=0) == ["One.", "", "One.", ""]
    assert len(server.requests) == 5, "it is asked with them once"
    assert engine.complete(["a"] * 2, 8, seed=0) == ["One.", ""]
