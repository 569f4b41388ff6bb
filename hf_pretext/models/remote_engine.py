"""A causal language model behind an address: vLLM, TGI, `transformers serve`, or a provider of the Hub."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cleaning import valid_unicode
from ..configuration import PrivateEvolutionConfig
from ..processes import map_over_processes, progress_bar
from ..segmentation import longest_beginning, word_spans

if TYPE_CHECKING:
    from huggingface_hub import InferenceClient

LONGEST_ANSWER = 600.0
"""Seconds to wait for one answer, if the client does not say."""

NUM_RETRIES = 7
"""Times that a request is repeated, after 0, 2, 4 and then every 8 seconds, or when the server says."""

CHARACTERS_OF_A_WORD = 16
"""Characters of a long word, such as an address, that count as one word."""

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
    chat, which needs a model that follows instructions. The server has to sample at the temperature that it is given.
    `transformers serve` does so if the model's `generation_config` has `do_sample`. Otherwise it writes the same text
    for equal prompts.

    Args:
        source (`str` or `InferenceClient`):
            Address of the API, such as `"http://localhost:8000/v1#Qwen/Qwen3-8B"`, with the model after the `#`
            unless the server has only one. A client brings its token, headers and timeout as well. Otherwise the token
            of a login is not sent.
        config (`PrivateEvolutionConfig`): Temperature and `top_p`.
        max_requests (`int`, *optional*, defaults to `64`): Requests under way at a time.

    Raises:
        ValueError: The address or the client does not name one of the server's models.
        ConnectionError: The server cannot be reached.
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
        self.model = model or self._only_model()

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

        def continue_one(prompt: str, seed: int) -> str:
            return self._continue(prompt, max_new_tokens, seed, stop)

        return self._map(continue_one, prompts, seed)

    def answer(self, instructions: Sequence[str], max_new_tokens: int, seed: int) -> list[str]:
        """Sample an answer to each instruction, as the turn of a chat."""

        def answer_one(instruction: str, seed: int) -> str:
            return self._chat(instruction, max_new_tokens, seed, None)[0]

        return self._map(answer_one, instructions, seed)

    def _map(self, ask: Callable[[str, int], str], prompts: Sequence[str], seed: int) -> list[str]:
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
            return answers

        return map_over_processes(ask_part, prompts, seed)

    def _continue(self, prompt: str, max_new_tokens: int, seed: int, stop: str | None) -> str:
        if not self._only_chats:
            request = {"prompt": prompt, **self._sampling(max_new_tokens, seed, stop)}
            answer = self._ask("completions", request, may_lack=True)
            if answer is not None:
                return _with_stop(answer["choices"][0]["text"], answer["choices"][0].get("finish_reason"), stop)
            self._only_chats = True
        return _with_stop(*self._chat(prompt, max_new_tokens, seed, stop), stop)

    def _chat(self, message: str, max_new_tokens: int, seed: int, stop: str | None) -> tuple[str, str | None]:
        turns = [{"role": "user", "content": message}]
        answer = self._ask("chat/completions", {"messages": turns, **self._sampling(max_new_tokens, seed, stop)})
        choice = answer["choices"][0]
        return choice["message"].get("content") or "", choice.get("finish_reason")

    def _sampling(self, max_new_tokens: int, seed: int, stop: str | None) -> dict[str, Any]:
        return {
            "model": self.model,
            "max_tokens": max_new_tokens,
            "temperature": self._config.temperature,
            "top_p": self._config.top_p,
            "seed": seed,
            **({"stop": [stop]} if stop else {}),
        }

    def _ask(self, path: str, request: dict[str, Any], may_lack: bool = False) -> Any:
        response = self._reach(self._session.post, path, json=request)
        return None if may_lack and response.status_code in (404, 405) else self._content(response)

    def _only_model(self) -> str:
        import requests

        # Not by the session, which repeats what fails. If there is no server, nothing is lost yet.
        response = self._reach(requests.get, "models", headers=self._session.headers)
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
        return response.json()


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


def _with_stop(text: str, finish_reason: str | None, stop: str | None) -> str:
    """Add the stop string that a server leaves out if it stopped there. If the model ended by itself, no line did."""
    ended_there = finish_reason == "stop" and stop is not None and stop not in text and text.endswith("\n")
    return f"{text}{stop}" if ended_there else text
