"""The configuration of a run: one flat, frozen dataclass that round-trips through JSON and YAML."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .forms import check_chat_roles, check_form, check_text_column, form_of
from .labels import check_label_settings, check_labels, check_shares, split_evenly
from .paper import PAPER
from .settings import SavedSettings, check_settings, setting, shortened

ACCOUNTANTS = ("exact", "pld", "rdp")
VOTE_CLIPPINGS = ("l2", "count")
NEIGHBORING_RELATIONS = ("add_or_remove_one", "replace_one")

TITLE = "List of {size} diverse original text samples"
"""First line of the paper's list prompt."""

HEADING = "Original Text Sample"
"""Heading of a text in the paper's list prompt. What a model repeats of it is not a text."""

_NEEDS_NOISE = "There is no guarantee without noise."
_OF_THE_BUDGET = "It is a fraction of the budget."


@dataclass(frozen=True, kw_only=True)
class PrivateEvolutionConfig(SavedSettings):
    r"""Settings of Private Evolution on text ([PrE-Text](https://huggingface.co/papers/2406.02958), Algorithm 1).

    A configuration is checked when it is made and cannot be changed afterwards. `dataclasses.replace` makes a changed
    copy.

    > Parameters that control the privacy guarantee

    Args:
        delta (`float`):
            The additive term of (epsilon, delta)-differential privacy. It has no default: choose it well below one
            over the number of clients.
        epsilon (`float`, *optional*):
            Total privacy loss of the run, for one client. Give either this or `noise_multiplier`.
        noise_multiplier (`float`, *optional*):
            Standard deviation of the noise in one bin of one round's histogram, divided by the sensitivity. Give
            either this or `epsilon`.
        num_rounds (`int`, *optional*, defaults to `3`):
            Number of rounds `T`. Each releases one noisy histogram. The paper has 11.
        mean_fraction (`float`, *optional*, defaults to `0.0`):
            Fraction of the budget for one noisy mean of the clients' embeddings, released before the first round. The
            first candidates are then the public texts that it prefers. The rounds divide the rest of the budget
            equally. With `labels`, the release has a mean for each label, which tells the labels apart better than
            votes do, and which judges what is written with each: 0.6 is a good choice then, with `num_rounds`=2. The
            paper has no such release.
        token_fraction (`float`, *optional*):
            Fraction of the budget for one noisy sum of how often each client's samples hold each of some public
            tokens, released before the first round. The language model then writes them as often as the clients do
            (`evolution.token_tilt`). It needs a language model whose tokenizer is on this machine, and in a federation
            on the clients' as well. By default the generator decides by public facts
            (`privacy.plan.with_token_fraction`).
        num_tokens (`int`, *optional*, defaults to `4096`):
            Number of these tokens: the most frequent ones of the public texts.
        max_samples_per_client (`int`, *optional*, defaults to `8`):
            A client with more samples than this answers with a random subset of them.
        vote_clipping (`str`, *optional*, defaults to `"l2"`):
            `"l2"` scales each client's vote vector to L2 norm 1, so the sensitivity is 1. `"count"` is the paper's
            counting: one vote per sample, sensitivity `max_samples_per_client`.
        accountant (`str`, *optional*, defaults to `"exact"`):
            `"exact"` (also called `"pld"`) is the closed form of the Gaussian mechanism. `"rdp"` is the paper's looser
            bound.
        client_sampling_rate (`float`, *optional*, defaults to `1.0`):
            Probability with which a client participates in a release, independent for every client and release
            (Poisson sampling). Who participates is secret, so less noise gives the same epsilon. It protects against
            everyone who does not see which clients answer.
        neighboring_relation (`str`, *optional*, defaults to `"add_or_remove_one"`):
            How two data sets differ that are to be hard to tell apart: by adding or removing all samples of one
            client, or, under `"replace_one"`, by exchanging all samples of one client for any others. The second needs
            `sqrt(2)` times the noise for votes, and twice the noise for a mean.
        max_dropout (`float`, *optional*):
            For a federation, whose clients add the noise themselves: the fraction of the asked clients, below 0.5,
            that may fail to answer a question. Each client adds as much noise as makes the others' enough without its
            own. A release that loses more answers is discarded. Without it, the process that holds all private text
            draws the noise.

    > Parameters that control the evolution

    Args:
        population_size (`int`, *optional*, defaults to `1024`):
            Number of candidates `N_syn` in a round, and of bins in a histogram.
        votes_per_sample (`int`, *optional*, defaults to `1`):
            Number of candidates that a sample votes for, the nearest to it. A client's votes have L2 norm 1 however
            many they are, so spread votes stand out more from the same noise. With little noise, one vote says more
            precisely what the sample is. A rule of thumb is 300 times the noise in a bin over the number of clients
            that participate, at most 16 and at most an eighth of `population_size`. At epsilon 1.29 this is 1 for a
            thousand clients and 16 for a hundred. A run warns if the rule says at least twice what is set. The library
            does not choose, because adding a client must not change how others vote. The paper, and so
            `vote_clipping="count"`, has one.
        smooth_votes (`bool`, *optional*, defaults to `True`):
            Remove noise from a histogram before it is used: similar candidates get similar votes
            (`evolution.smoothing`). It costs no privacy. The paper does not smooth.
        threshold (`float`, *optional*, defaults to `1.0`):
            Threshold `H` subtracted from the histogram, in standard deviations of the noise that is in it: the noise
            actually added, or what smoothing leaves of it.
        new_public_share (`float`, *optional*, defaults to `1.0`):
            Fraction of the next candidates that are public texts which were no candidates yet, drawn by the evidence
            of all releases. Variations make up the rest, and replace public texts that are missing. 0, as in the
            paper, makes variations only. Needs `smooth_votes`.
        keep_survivors (`bool`, *optional*, defaults to `False`):
            Keep survivors among the next candidates, along with variations of them. The paper varies all of them.
        lookahead (`int`, *optional*, defaults to `0`):
            A candidate is represented by the mean embedding of this many variations of it (`K`). `0` represents it by
            its own embedding. The paper's code has 4.
        reuse_lookahead (`bool`, *optional*, defaults to `False`):
            Let the variations that represented a candidate be its children in the next round, if there are enough of
            them, instead of making others. The paper discards them.

    > Parameters that control the variation of texts

    Args:
        mask_probability (`float`, *optional*, defaults to `0.3`):
            Fraction of a text's tokens that one pass of mask filling replaces. Not used if variation is by prompting.
        variation_steps (`int`, *optional*, defaults to `2`):
            Number of passes of mask filling (`W_steps`), or of rewritings if variation is by prompting.
        masks_per_pass (`int`, *optional*, defaults to `1`):
            Number of a text's masks that one forward pass of mask filling fills. One, as in the paper, draws each
            token given all others. More are faster, and each token is drawn independent of the others of its pass.
        variation_prompt (`str`, *optional*):
            Instruction with a `{text}` in it, such as `"Rephrase this text: {text}"`, for variation by prompting.
            Without it the language model writes another ending to the beginning of a text.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature of every model.
        top_p (`float`, *optional*, defaults to `1.0`):
            Fraction of the probability mass that is sampled from, in every model.
        max_length (`int`, *optional*, defaults to `64`):
            Longest candidate, in tokens of the model that varies it. Longer public texts are cut.

    > Parameters that control the initial population and the expansion

    Args:
        domain (`str`, *optional*):
            What the texts are, in a few public words, such as `"questions to a bank's support chat"`. The language
            model writes the initial population from it if none is given, and expands seeds with it in the prompt. It
            must not be taken from the private data.
        list_title (`str`, *optional*, defaults to `"List of {size} diverse original text samples"`):
            First line of the prompts in which the language model continues a list of texts. `{size}` is replaced by
            the number of texts. A model writes a language more reliably if the prompt is in it.
        list_heading (`str`, *optional*, defaults to `"Original Text Sample"`):
            What stands above each text of the list, before its number.
        seeds_per_prompt (`int`, *optional*, defaults to `8`):
            Most surviving seeds shown in one expansion prompt. There are fewer if the longest seeds would not fit into
            the model's context. The paper shows 3.
        weight_seeds (`bool`, *optional*, defaults to `True`):
            Show seeds in proportion to their votes in all rounds and to how much the evidence prefers text like them
            to other public text. The paper shows all equally often.
        texts_per_prompt (`int`, *optional*, defaults to `1`):
            Number of new texts read from the continuation of one prompt. The paper reads one.
        continuations_per_prompt (`int`, *optional*, defaults to `1`):
            Number of continuations of one prompt, which is read once for all of them. The paper has one.
        best_of (`int`, *optional*, defaults to `2`):
            Texts written for each that is kept. Those are kept that the evidence prefers and that together are what
            the clients said. With token counts, they hold the tokens as often. Otherwise they have the clients' mean
            embedding, if all clients were asked for it, without labels and outside a federation, and noise is at most
            a fifth of its squared length (`evolution.matching`). It costs time and no privacy. 1, as in the paper,
            keeps all. So does an expansion of seeds of which nothing is known. With `labels` and `mean_fraction`,
            those are kept that fit their own label best, and none that fits another one better: 3 is a good choice
            then.
        max_new_tokens (`int`, *optional*, defaults to `85`):
            Longest new text, in tokens of the expansion model. A longer one is cut after a sentence.
        min_words (`int`, *optional*, defaults to `3`):
            Generated texts with fewer words are dropped. In a script without spaces a word is a character.

    > Parameters that control the data and the run

    Args:
        text_column (`str` or `Sequence[str]`, *optional*, defaults to `"text"`):
            Column that holds the texts, in the private and in the public dataset. Several columns make records, such
            as `("subject", "body")`, and the synthetic dataset has these columns too. A name may be a path into nested
            fields, such as `"message.body"`.
        template (`str`, *optional*):
            Public text in which a record is written, with each column once, such as `"Subject: {subject}\n\n{body}"`.
            By default each column is a line `name: value`.
        chat_roles (`Sequence[str]`, *optional*):
            The two roles of conversations, such as `("user", "assistant")`. Then `text_column` holds lists of turns
            with `role` and `content`, in which the roles alternate. The synthetic dataset has such a column
            `messages`. Conversations are long: set `max_length` to 256 and `max_new_tokens` to 300 or more.
        client_column (`str`, *optional*, defaults to `"client_id"`):
            Column of the private dataset that says whose text it is: the unit that the guarantee protects.
        label_column (`str`, *optional*):
            Column of labels, in the private dataset and, if it has one, in the public one. The synthetic texts get it
            back as a `ClassLabel`. A sample then votes among the candidates of its own label. Needs `labels`.
        labels (`Mapping[str, str]`, *optional*):
            The name of each label and a few public words on it, such as `{"spam": "unwanted advertising", "ham":
            "messages that people want"}`. They stand in prompts and are published. They must not be read from the
            private data. At least two.
        label_shares (`Mapping[str, float]`, *optional*):
            Fraction of the synthetic texts that each label gets, such as equal ones. Without it, the clients' answers
            say how many of their samples have each label, under the same guarantee and noise.
        seed (`int`, *optional*, defaults to `0`):
            Seed of everything but the noise. The noise comes from the operating system and cannot be reproduced.

    Raises:
        ValueError: A field is out of its range, or both or neither of `epsilon` and `noise_multiplier` are given.
        TypeError: A field has the wrong type.
    """

    delta: float = setting(
        help="The additive term of (epsilon, delta)-differential privacy.",
        above=0,
        below=1,
        hint="Choose it well below one over the number of clients.",
    )
    epsilon: float | None = setting(
        None,
        help="Total privacy loss of the run, for one client. Or give noise_multiplier.",
        above=0,
        hint=_NEEDS_NOISE,
    )
    noise_multiplier: float | None = setting(
        None, help="Noise standard deviation over sensitivity, per round. Or give epsilon.", above=0, hint=_NEEDS_NOISE
    )
    num_rounds: int = setting(3, help="Number of rounds T, one noisy histogram each.", at_least=1)
    mean_fraction: float = setting(
        0.0,
        help="Fraction of the budget for one mean embedding before the first round.",
        at_least=0,
        below=1,
        hint=_OF_THE_BUDGET,
    )
    token_fraction: float | None = setting(
        None, help="Fraction of the budget for token counts.", at_least=0, below=1, hint=_OF_THE_BUDGET
    )
    num_tokens: int = setting(4096, help="Number of public tokens that are counted.", at_least=2)
    max_samples_per_client: int = setting(
        8, help="A client with more samples answers with a random subset of this many.", at_least=1
    )
    vote_clipping: str = setting(
        "l2", help="'l2': a client's votes have L2 norm 1. 'count': the paper's counting.", choices=VOTE_CLIPPINGS
    )
    accountant: str = setting("exact", help="'exact', or 'rdp': the paper's looser bound.", choices=ACCOUNTANTS)
    client_sampling_rate: float = setting(
        1.0,
        help="Probability with which a client participates in a release.",
        above=0,
        at_most=1,
        hint="It is a probability.",
    )
    neighboring_relation: str = setting(
        "add_or_remove_one", help="'add_or_remove_one' or 'replace_one' client.", choices=NEIGHBORING_RELATIONS
    )
    max_dropout: float | None = setting(
        None,
        help="Fraction of a federation's clients that may fail to answer.",
        at_least=0,
        below=0.5,
        hint="It is a fraction of the clients.",
    )

    population_size: int = setting(1024, help="Number of candidates N_syn in a round.", at_least=2)
    votes_per_sample: int = setting(1, help="Candidates that a sample votes for.", at_least=1)
    smooth_votes: bool = setting(True, help="Remove noise from a histogram before it is used.")
    threshold: float = setting(
        1.0,
        help="Histogram threshold H, in noise standard deviations.",
        at_least=0,
        hint="It is counted in standard deviations of the noise.",
    )
    new_public_share: float = setting(
        1.0,
        help="Fraction of new public texts among candidates.",
        at_least=0,
        at_most=1,
        hint="It is a fraction of the candidates.",
    )
    keep_survivors: bool = setting(False, help="Keep survivors among the next candidates.")
    lookahead: int = setting(0, help="Variations K averaged into a candidate's embedding. 0: none.", at_least=0)
    reuse_lookahead: bool = setting(False, help="Let lookahead variations be children.")

    mask_probability: float = setting(
        0.3,
        help="Fraction of tokens one mask filling pass replaces.",
        above=0,
        at_most=1,
        hint="It is a fraction of the tokens.",
    )
    variation_steps: int = setting(2, help="Passes of variation W_steps.", at_least=1)
    masks_per_pass: int = setting(1, help="Masks that one forward pass fills. 1 is the paper's.", at_least=1)
    variation_prompt: str | None = setting(None, help="Instruction with {text}, for prompting.")
    temperature: float = setting(1.0, help="Sampling temperature of every model.", above=0)
    top_p: float = setting(1.0, help="Fraction of the probability mass that is sampled from.", above=0, at_most=1)
    max_length: int = setting(64, help="Longest candidate, in tokens.", at_least=4)

    domain: str | None = setting(None, help="What the texts are, in a few public words.")
    list_title: str = setting(TITLE, help="First line of prompts that list texts, with {size} for their number.")
    list_heading: str = setting(HEADING, help="Heading of a text in such a list, before its number.")
    seeds_per_prompt: int = setting(8, help="Most seeds shown in one expansion prompt.", at_least=1)
    weight_seeds: bool = setting(True, help="Show seeds in proportion to votes and preference.")
    texts_per_prompt: int = setting(1, help="New texts read from one continuation.", at_least=1)
    continuations_per_prompt: int = setting(1, help="Continuations of one prompt.", at_least=1)
    best_of: int = setting(2, help="Texts written for each that is kept, by the evidence.", at_least=1)
    max_new_tokens: int = setting(85, help="Longest new text, in tokens.", at_least=1)
    min_words: int = setting(3, help="Generated texts with fewer words are dropped.", at_least=1)

    text_column: str | tuple[str, ...] = setting(
        "text", help="Column that holds the texts, or a list of columns.", check=check_text_column
    )
    template: str | None = setting(None, help="Text of a record, with each column once in braces.")
    chat_roles: tuple[str, ...] | None = setting(
        None, help="The two roles, if text_column holds conversations.", check=check_chat_roles
    )
    client_column: str = setting("client_id", help="Column that says whose text it is.")
    label_column: str | None = setting(None, help="Column of labels.")
    labels: Mapping[str, str] | None = setting(
        None, help="Name of each label, and a few public words on it.", check=check_labels
    )
    label_shares: Mapping[str, float] | None = setting(
        None, help="Fraction of the synthetic texts of each label. By default from the votes.", check=check_shares
    )
    seed: int = setting(0, help="Seed of everything but the noise.", at_least=0)

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError(
                f"Give exactly one of `epsilon` and `noise_multiplier`: got epsilon={self.epsilon} and "
                f"noise_multiplier={self.noise_multiplier}. The other one follows from it."
            )
        check_settings(self)
        for name in ("text_column", "chat_roles"):
            if isinstance(vars(self)[name], list):
                object.__setattr__(self, name, tuple(vars(self)[name]))
        if self.accountant == "pld":  # The name in the first edition.
            object.__setattr__(self, "accountant", "exact")
        for name in ("labels", "label_shares"):
            if vars(self)[name] is not None:  # A copy, which the caller's own mapping does not change.
                object.__setattr__(self, name, dict(vars(self)[name]))
        self._check_guarantee()
        self._check_method()
        check_label_settings(self)

    @property
    def label_names(self) -> list[str]:
        """Names of the labels, in the order of their numbers. Empty if there are none."""
        return list(self.labels or ())

    @property
    def candidates_per_label(self) -> list[int]:
        """Number of candidates of each label, in a round. One number if there are no labels."""
        return split_evenly(self.population_size, max(len(self.label_names), 1))

    def _check_guarantee(self) -> None:
        """Refuse combinations that are not accounted for."""
        if self.max_dropout is not None and self.client_sampling_rate < 1:
            raise ValueError(
                f"`client_sampling_rate`={self.client_sampling_rate} saves noise if no one sees who participates, but "
                "the server of a federation does. With `max_dropout`, let all clients participate: 1."
            )
        if self.client_sampling_rate < 1 and self.neighboring_relation == "replace_one":
            raise ValueError(
                f"`client_sampling_rate`={self.client_sampling_rate} is accounted for under `neighboring_relation`="
                "'add_or_remove_one' only. Choose that, or let all clients participate: `client_sampling_rate`=1."
            )
        if self.vote_clipping == "count" and self.max_samples_per_client > 1024:
            raise ValueError(
                f"`max_samples_per_client`={self.max_samples_per_client} is also the sensitivity of "
                f"`vote_clipping`='count', which is exact up to 1024. Lower it, or use `vote_clipping`='l2'."
            )
        if self.vote_clipping == "count" and self.votes_per_sample > 1:
            raise ValueError(
                f"`votes_per_sample`={self.votes_per_sample}: `vote_clipping`='count' is the paper's counting, one "
                "vote per sample. Use `vote_clipping`='l2', or `votes_per_sample`=1."
            )

    def _check_method(self) -> None:
        """Refuse combinations that mean nothing."""
        if self.votes_per_sample > self.population_size:
            raise ValueError(
                f"`votes_per_sample`={self.votes_per_sample} is more than there are candidates: `population_size`="
                f"{self.population_size}."
            )
        if self.reuse_lookahead and self.lookahead == 0:
            raise ValueError("`reuse_lookahead`=True has nothing to reuse with `lookahead`=0. Set that to 1 or more.")
        if self.new_public_share > 0 and not self.smooth_votes:
            raise ValueError(
                f"`new_public_share`={self.new_public_share} draws public texts by smoothed votes, but `smooth_votes`="
                "False. Set `new_public_share`=0 as well."
            )
        if self.variation_prompt is not None and "{text}" not in self.variation_prompt:
            raise ValueError(f"`variation_prompt`={self.variation_prompt!r} must say where the text goes: '{{text}}'.")
        for name, words in (("list_title", self.list_title), ("list_heading", self.list_heading)):
            if re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", words) or words != words.strip():
                raise ValueError(f"`{name}`={shortened(words)} must be one line without blanks around it.")
        if self.list_heading[-1].isdigit():
            raise ValueError(
                f"`list_heading`={self.list_heading!r} must not end with a digit, because a number follows it."
            )
        check_form(self)
        if self.client_column in form_of(self).source:
            raise ValueError(f"`text_column` and `client_column` are both {self.client_column!r}. They must differ.")

    @property
    def output_columns(self) -> tuple[str, ...]:
        """Columns of the synthetic dataset, which the privacy report is about together."""
        return form_of(self).columns if self.label_column is None else (*form_of(self).columns, self.label_column)

    @classmethod
    def paper(cls, *, epsilon: float = 1.29, **overrides: Any) -> "PrivateEvolutionConfig":
        """Make the settings of the paper's experiments (ICML 2024, section 4 and appendix).

        The paper prints no value of the threshold `H` for these experiments. It is 0 here, which keeps every bin whose
        noisy count is positive.

        Args:
            epsilon (`float`, *optional*, defaults to `1.29`):
                The paper uses 1.29, with 1,024 candidates, and 7.58, with 2,048.
            **overrides:
                Fields to change, for example `max_samples_per_client=16`, which the paper uses for CODE.

        Returns:
            `PrivateEvolutionConfig`: The paper's settings.
        """
        size = 1024 if epsilon < 7.58 else 2048
        return cls(**{"epsilon": epsilon, "population_size": size, **PAPER, **overrides})
