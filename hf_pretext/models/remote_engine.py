"""A causal language model behind an address: vLLM, TGI, `transformers serve`, or a provider of the Hub."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cleaning import valid_unicode
from ..configuration import PrivateEvolutionConfig
from ..processes import map_over_processes, progress_bar
from ..segmentation import longest_beginning, word_spans
from .thinking import NO_THINKING, without_thinking

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

    from .token_reader import TokenizerReader

logger = logging.getLogger(__name__)

LONGEST_ANSWER = 600.0
"""Seconds to wait for one answer, if the client does not say."""

NUM_RETRIES = 7
"""Times that a request is repeated, after 0, 2, 4 and then every 8 seconds, or when the server says."""

CHARACTERS_OF_A_WORD = 16
"""Characters of a long word, such as an address, that count as one word."""

MOST_BIASED = (1024, 300, 100)
"""Numbers of biased tokens that are tried one after the other if a server refuses all of them."""

REFUSED = (400, 413, 422)
"""Statuses of HTTP with which a server refuses what it is asked for."""

NUM_TRIED_TOKENS = 3
"""Tokens by which it is tried whether a server writes what it is told to, and counts tokens as the tokenizer does."""

FEW_TOKENS = 16
"""Tokens that a server is asked for when an engine is made. Some refuse to write one only."""

PASSING = (408, 429, 500, 502, 503, 504)
"""Statuses of HTTP that may be others a little later."""


def is_remote(source: Any) -> bool:
    """Return whether a source of a model is a server: its address, or an `InferenceClient` of huggingface_hub."""
    from huggingface_hub import InferenceClient

    is_address = isinstance(source, str) and source.startswith(("http://", "https://"))
    return is_address or isinstance(source, InferenceClient)


class RemoteEngine:
    """Continues prompts with a model behind an address that speaks the API of OpenAI.

    Prompts, which hold seeds and public texts only, are sent to the server. Nothing private is. Up to `max_requests`
    requests are under way at a time. Each thread sends the next prompt when its answer has come, so that a slow server
    is asked no faster than it answers. Requests that fail for a passing reason are repeated with growing pauses.

    Prompts go to `/completions`, which continues them as they are. A server without it gets them as the turn of a
    chat, which needs a model that follows instructions. A model that thinks first is asked not to, and what it thought
    is cut off.

    The server has to sample by `temperature` and `top_p` alone. Many take what a request does not say from the model's
    `generation_config`: a `top_k`, a `min_p`, a penalty on repetition. `vllm serve --generation-config vllm` does not.
    `transformers serve` does, so `"top_k": 0` has to stand there. It needs `do_sample` there as well, or it writes the
    same text for equal prompts.

    Args:
        source (`str` or `InferenceClient`):
            Address of the API, such as `"http://localhost:8000/v1#Qwen/Qwen3-8B"`, with the model after the `#`
            unless the server has only one. A client brings its token, headers and timeout as well. Otherwise the token
            of a login is not sent.
        config (`PrivateEvolutionConfig`): Temperature and `top_p`.
        max_requests (`int`, *optional*, defaults to `64`): Requests under way at a time.

    Raises:
        ValueError: The address or the client does not name one of the server's models, or it refuses to write.
        ConnectionError: The server cannot be reached, or is too busy. It is asked for a few tokens.
    """

    def __init__(
        self, source: "str | InferenceClient", config: PrivateEvolutionConfig, max_requests: int = 64
    ) -> None:
        from huggingface_hub import InferenceClient

        client = source if isinstance(source, InferenceClient) else InferenceClient(source)
        address, _, model = (client.model or "").partition("#")
        if not address.startswith(("http://", "https://")):
            raise ValueError(
                f"`expansion_model`={client!r} has no address. Make it with `base_url`, such as "
                "'https://router.huggingface.co/v1#Qwen/Qwen3-8B' for a model of the Hub's Inference Providers."
            )
        self._session = _session(client, max_requests)
        self._timeout = client.timeout or LONGEST_ANSWER
        self._address = address.rstrip("/")
        self._config = config
        self._max_requests = max_requests
        self._only_chats = False
        self._knows_templates = True
        self._most_biased: int | None = None
        found = self._models()
        self.model = model or self._only_of(found)
        # A wrong name or a model that is not there would be found out when the budget is spent.
        self._continue("A", FEW_TOKENS, 0, None, {})

    def truncate(self, text: str, max_tokens: int) -> str:
        """Cut a text after as many words as usually make up `max_tokens` tokens: three quarters of that number.

        A character of a script without spaces counts as a word, and so do 16 characters of a long word. The server's
        tokenizer is not known, so the number of tokens may be larger.
        """
        left, last = max(1, max_tokens * 3 // 4), 0
        for start, end in word_spans(text):
            size = -(-(end - start) // CHARACTERS_OF_A_WORD)
            if size > left:
                # A word is only cut if nothing stands before it.
                return text[:last] or longest_beginning(text, lambda _: True, start + left * CHARACTERS_OF_A_WORD)
            left, last = left - size, end
        return text

    def check_context(self, length: int) -> None:
        """Raise a `ValueError` if the server says that its model cannot read `length` tokens, as vLLM does."""
        context = self._context
        if context is not None and length > context:
            raise ValueError(
                f"A prompt and its continuation need up to {length} tokens, more than the {context} that "
                f"`expansion_model`={self.model!r} reads at its server. Lower `max_length`, `max_new_tokens` or "
                "`texts_per_prompt`, or serve the model with a longer context."
            )

    @cached_property
    def _context(self) -> int | None:
        import requests

        try:
            answer = requests.get(f"{self._address}/models", headers=self._session.headers, timeout=10).json()
            lengths = [model.get("max_model_len") for model in answer["data"] if model["id"] == self.model]
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
            return None  # Many servers say nothing, and prompts may be short enough.
        return lengths[0] if lengths and isinstance(lengths[0], int) else None

    def complete(self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None = None) -> list[str]:
        """Sample one continuation of each prompt. See `TextEngine`.

        Raises:
            ValueError: The server refuses a request.
            ConnectionError: It could not be reached, or was too busy, through all repetitions.
        """
        return self.complete_tilted(prompts, max_new_tokens, seed, stop, {})

    def complete_tilted(
        self, prompts: Sequence[str], max_new_tokens: int, seed: int, stop: str | None, bias: Mapping[int, float]
    ) -> list[str]:
        """Sample continuations with `logit_bias`. See `TakesBias`.

        A server may refuse so many tokens. Then those with the largest bias are sent.
        """

        def continue_one(prompt: str, seed: int) -> str:
            return self._continue(prompt, max_new_tokens, seed, stop, bias)

        return self._map(continue_one, prompts, seed)

    def token_reader(self) -> "TokenizerReader | None":
        """Return the tokenizer of the model that the server names, if it is here and the server takes a bias.

        It is tried with a bias that leaves one token only. So a tokenizer that has other tokens than the server's
        model, and a server that does nothing with a bias, are found out.
        """
        return self._token_reader

    @cached_property
    def _token_reader(self) -> "TokenizerReader | None":
        from .checkpoints import read_tokenizer
        from .token_reader import TRIAL, TokenizerReader

        try:
            reader = TokenizerReader(read_tokenizer(self.model))
            words = {token: reader.decode(token).strip() for token in reader(TRIAL)}
            tried = [token for token, word in words.items() if word.isalpha()][-NUM_TRIED_TOKENS:]
            written = [self._continue(TRIAL, 1, 0, None, {token: 100.0}).strip() for token in tried]
        except Exception as error:  # No such tokenizer, or whatever a server answers.
            logger.info("%s is not told how often to write each token: %s", self._address, str(error)[:300])
            return None
        return reader if tried and written == [words[token] for token in tried] else None

    def answer(self, instructions: Sequence[str], max_new_tokens: int, seed: int) -> list[str]:
        """Sample an answer to each instruction, as the turn of a chat."""

        def answer_one(instruction: str, seed: int) -> str:
            return self._chat(instruction, max_new_tokens, seed, None)[0]

        return self._map(answer_one, instructions, seed, in_chat=True)

    def _map(
        self, ask: Callable[[str, int], str], prompts: Sequence[str], seed: int, in_chat: bool = False
    ) -> list[str]:
        """Ask for each prompt, each with its own seed. Several processes divide the prompts."""

        def ask_part(prompts: Sequence[str], seed: int) -> list[str]:
            seeds = np.random.default_rng(seed).integers(2**31, size=len(prompts)).tolist()
            answers = []
            with (
                ThreadPoolExecutor(self._max_requests) as threads,
                progress_bar(len(prompts), "request") as bar,
            ):
                try:
                    for answer in threads.map(ask, map(valid_unicode, prompts), seeds):
                        answers.append(answer)
                        bar.update()
                except BaseException:
                    # What has not been asked yet is not worth asking.
                    threads.shutdown(wait=False, cancel_futures=True)
                    raise
            return without_thinking(answers, in_chat or self._only_chats)

        return map_over_processes(ask_part, prompts, seed)

    def _continue(
        self, prompt: str, max_new_tokens: int, seed: int, stop: str | None, bias: Mapping[int, float]
    ) -> str:
        if not self._only_chats:
            request = {"prompt": prompt, **self._sampling(max_new_tokens, seed, stop)}
            answer = self._ask_tilted("completions", request, bias, (404, 405))
            if answer is not None:
                choice = self._choice_of(answer, "text")
                return _with_stop(choice["text"], choice.get("finish_reason"), stop)
            self._only_chats = True
        return _with_stop(*self._chat(prompt, max_new_tokens, seed, stop, bias), stop)

    def _chat(
        self, message: str, max_new_tokens: int, seed: int, stop: str | None, bias: Mapping[int, float] | None = None
    ) -> tuple[str, str | None]:
        turns = [{"role": "user", "content": message}]
        request = {"messages": turns, **self._sampling(max_new_tokens, seed, stop)}
        answer = None
        if self._knows_templates:
            with_template = {**request, "chat_template_kwargs": NO_THINKING}
            answer = self._ask_tilted("chat/completions", with_template, bias or {}, (400, 422))
        if answer is None:
            answer = self._ask_tilted("chat/completions", request, bias or {})
            # Not before: a request may be refused for another reason.
            self._knows_templates = False
        choice = self._choice_of(answer, "message")
        return _words_of(choice["message"].get("content")), choice.get("finish_reason")

    def _sampling(self, max_new_tokens: int, seed: int, stop: str | None) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": max_new_tokens,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "seed": seed,
            **({"stop": [stop]} if stop else {}),
        }

    def _ask_tilted(
        self, path: str, request: dict[str, Any], bias: Mapping[int, float], may_refuse: tuple[int, ...] = ()
    ) -> Any:
        """Send a request with as many biased tokens as the server takes, those with the largest bias first."""
        if not bias:
            return self._ask(path, request, may_refuse)
        largest = sorted(bias.items(), key=lambda each: -abs(each[1]))
        for most in [self._most_biased or len(bias), *(each for each in MOST_BIASED if each < len(bias))]:
            if self._most_biased is not None and most > self._most_biased:
                continue
            sent = {str(token): round(value, 3) for token, value in largest[:most]}
            answer = self._ask(path, {**request, "logit_bias": sent}, (*REFUSED, *may_refuse))
            if answer is not None:
                if most < len(bias) and self._most_biased is None:
                    logger.warning("%s takes a bias of %d tokens, not of %d.", self._address, most, len(bias))
                    self._most_biased = most
                return answer
        # For its own message, or for what it refuses without a bias.
        return self._ask(path, {**request, "logit_bias": sent}, may_refuse)

    def _ask(self, path: str, request: dict[str, Any], may_refuse: tuple[int, ...] = ()) -> Any:
        """Send a request. Returns None if the server answers with one of the statuses with which it may refuse."""
        response = self._reach(self._session.post, path, json=request)
        return None if response.status_code in may_refuse else self._content(response)

    def _models(self) -> Any:
        import requests

        # Not by the session, which repeats what fails. If there is no server, nothing is lost yet.
        return self._reach(requests.get, "models", headers=self._session.headers)

    def _only_of(self, response: Any) -> str:
        found = [model["id"] for model in self._content(response)["data"]]
        if len(found) != 1:
            raise ValueError(
                f"`expansion_model`: {self._address} serves {len(found)} models. Name one of them after a '#': "
                f"'{self._address}#{found[0] if found else 'organisation/model'}'."
            )
        return found[0]

    def _reach(self, send: Callable[..., Any], path: str, **arguments: Any) -> Any:
        import requests

        address = f"{self._address}/{path}"
        try:
            return send(address, timeout=self._timeout, **arguments)
        except requests.RequestException as error:
            raise ConnectionError(
                f"`expansion_model`: {address} could not be reached, or broke off, with a {type(error).__name__}: "
                f"{str(error)[:300]}. With `run_dir`, the same call resumes."
            ) from error

    def _content(self, response: Any) -> Any:
        status = response.status_code
        if status >= 400:
            kind = ConnectionError if status in PASSING else ValueError
            raise kind(f"`expansion_model`: {response.url} answered with status {status}: {response.text[:300]}")
        try:
            return response.json()
        except ValueError:
            raise self._without_completion(response.text) from None

    def _choice_of(self, answer: Any, needed: str) -> dict[str, Any]:
        """Return what the model wrote. Gateways answer with status 200 as well when no model has."""
        try:
            choice = dict(answer["choices"][0])
            if isinstance(choice[needed], (str, dict)):
                return choice
        except (KeyError, IndexError, TypeError, ValueError):
            pass
        raise self._without_completion(str(answer))

    def _without_completion(self, found: str) -> ConnectionError:
        return ConnectionError(
            f"`expansion_model`: {self._address} answered without a completion: {found[:300]}. With `run_dir`, the "
            "same call resumes."
        )


def _session(client: "InferenceClient", max_requests: int) -> Any:
    """Make a session of HTTP that repeats what fails for a passing reason.

    Not that of huggingface_hub, which sends nothing if `HF_HUB_OFFLINE` is set, as is common on machines with a
    server.
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retries = Retry(
        NUM_RETRIES,
        backoff_factor=1,
        backoff_max=8,
        backoff_jitter=0.5,
        status_forcelist=PASSING,
        allowed_methods=None,
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retries, pool_maxsize=max_requests))
    session.headers.update(client.headers or {})
    if client.token:
        session.headers["Authorization"] = f"Bearer {client.token}"
    return session


def _words_of(content: Any) -> str:
    """Return what a message says. Some servers give its parts, of which one may be what the model thought."""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""


def _with_stop(text: str, finish_reason: str | None, stop: str | None) -> str:
    """Add the stop string that a server leaves out if it stopped there.

    If the model ended by itself, nothing else did, but a line: that is whole either way.
    """
    is_left_out = finish_reason == "stop" and stop is not None and stop not in text
    return f"{text}{stop}" if is_left_out and (stop == "\n" or text.endswith("\n")) else text
