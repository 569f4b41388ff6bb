"""The configuration of a run: one flat, frozen dataclass that round-trips through JSON and YAML."""

import json
import reprlib
import warnings
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .version import __version__

CONFIG_NAME = "private_evolution_config.json"

ACCOUNTANTS = ("pld", "rdp")
VOTE_CLIPPINGS = ("l2", "count")
NEIGHBORING_RELATIONS = ("add_or_remove_one", "replace_one")


def shortened(value: object) -> str:
    """Show a value in an error by its beginning and end: a stranger's file may hold a list of millions there."""
    limits = reprlib.Repr()
    limits.maxstring = limits.maxother = 200
    limits.maxlist = 20
    return limits.repr(value)


@dataclass(frozen=True, kw_only=True)
class PrivateEvolutionConfig:
    r"""Settings of Private Evolution on text ([PrE-Text](https://huggingface.co/papers/2406.02958), Algorithm 1).

    A configuration is checked when it is made and cannot be changed afterwards; `dataclasses.replace` makes a changed
    copy.

    > Parameters that control the privacy guarantee

    Args:
        delta (`float`):
            Probability with which the guarantee may fail. It has no default: choose it well below one over the number
            of clients.
        epsilon (`float`, *optional*):
            Total privacy loss of the run, for one client. Give either this or `noise_multiplier`.
        noise_multiplier (`float`, *optional*):
            Standard deviation of the noise in one bin of one round's histogram, divided by the sensitivity. Give
            either this or `epsilon`.
        num_rounds (`int`, *optional*, defaults to `3`):
            Number of rounds `T`; each releases one noisy histogram. The paper has 11.
        max_samples_per_client (`int`, *optional*, defaults to `8`):
            A client with more samples than this votes with a random subset of them.
        vote_clipping (`str`, *optional*, defaults to `"l2"`):
            `"l2"` scales each client's vote vector to L2 norm 1, so the sensitivity is 1. `"count"` is the paper's
            counting: one vote per sample, sensitivity `max_samples_per_client`.
        accountant (`str`, *optional*, defaults to `"pld"`):
            `"pld"` is exact for the Gaussian mechanism; `"rdp"` is the paper's looser bound.
        client_sampling_rate (`float`, *optional*, defaults to `1.0`):
            Probability with which a client takes part in a round, drawn anew for every client and round (Poisson
            sampling). Who took part stays secret, so less noise gives the same epsilon. It does so against everybody
            who does not see which clients answer.
        neighboring_relation (`str`, *optional*, defaults to `"add_or_remove_one"`):
            How two data sets differ that are to be hard to tell apart: by all samples of one client more or less, or,
            under `"replace_one"`, by exchanging all samples of one client for any others, which takes `sqrt(2)` times
            the noise.
        max_dropout (`float`, *optional*):
            For a federation, whose clients add the noise themselves: the share of the asked clients, below 0.5, that
            may fail to answer in a round. Each client adds so much that the others' noise is enough without theirs; a
            round that loses more is discarded. Without it, the process that holds all private text draws the noise.

    > Parameters that control the evolution

    Args:
        population_size (`int`, *optional*, defaults to `1024`):
            Number of candidates `N_syn` in a round, and of bins in a histogram.
        votes_per_sample (`int`, *optional*, defaults to `1`):
            Number of candidates that a sample votes for, the nearest to it. A client's votes have L2 norm 1 however
            many they are, so spread ones stand out more from the same noise; where there is little of it, one vote
            says more precisely what the sample is. A rule of thumb is 300 times the noise in a bin over the number of
            clients that take part, at most 16 and at most an eighth of `population_size`: at epsilon 1.29, 1 for a
            thousand clients and 16 for a hundred. A run warns where that is at least twice what is set. It does not
            choose by itself, because a client more or less must not change how others vote. The paper, and so
            `vote_clipping="count"`, has one.
        smooth_votes (`bool`, *optional*, defaults to `True`):
            Take noise out of a histogram before it is used: candidates that are alike get votes that are alike
            (`selection.smooth_votes`). It costs no privacy. The paper does not smooth.
        threshold (`float`, *optional*, defaults to `1.0`):
            Threshold `H` subtracted from the histogram, in standard deviations of the noise that is in it: the noise
            actually added, or what smoothing leaves of it.
        new_public_share (`float`, *optional*, defaults to `1.0`):
            Share of the next candidates that are public texts which were no candidates yet, drawn by the votes that
            smoothing expects for them; variations make up the rest, and what the public texts do not suffice for. 0,
            as in the paper, makes variations only. Needs `smooth_votes`.
        keep_survivors (`bool`, *optional*, defaults to `False`):
            Keep survivors among the next candidates, beside variations of them. The paper varies all of them.
        lookahead (`int`, *optional*, defaults to `0`):
            A candidate is represented by the mean embedding of this many variations of it (`K`); `0` represents it by
            its own embedding. The paper's code has 4.
        reuse_lookahead (`bool`, *optional*, defaults to `False`):
            Let the variations that represented a candidate be its children in the next round, as far as there are
            enough of them, instead of making others. The paper throws them away.

    > Parameters that control the variation of texts

    Args:
        mask_probability (`float`, *optional*, defaults to `0.3`):
            Share of a text's tokens that one pass of mask filling replaces. Not used when variation is by prompting.
        variation_steps (`int`, *optional*, defaults to `2`):
            Number of passes of mask filling (`W_steps`), or of rewritings when variation is by prompting.
        masks_per_pass (`int`, *optional*, defaults to `1`):
            Number of a text's masks that one forward pass of mask filling fills. One, as in the paper, draws each
            token given all others; with more the variations come sooner, and each token is drawn without regard to
            the others of its pass.
        variation_prompt (`str`, *optional*):
            Instruction with a `{text}` in it, such as `"Rephrase this text: {text}"`, for variation by prompting.
            Without it the language model writes another ending to the beginning of a text.
        temperature (`float`, *optional*, defaults to `1.0`):
            Sampling temperature of every model.
        top_p (`float`, *optional*, defaults to `1.0`):
            Share of the probability mass that is sampled from, in every model.
        max_length (`int`, *optional*, defaults to `64`):
            Longest candidate, in tokens of the model that varies it; longer public texts are cut.

    > Parameters that control the initial population and the expansion

    Args:
        domain (`str`, *optional*):
            What the texts are, in a few words that anybody may know, such as `"questions to a bank's support chat"`.
            The language model writes the initial population from it where none is given, and expands seeds with it in
            the prompt. It must not be taken from the private data.
        seeds_per_prompt (`int`, *optional*, defaults to `8`):
            Number of surviving seeds shown in one expansion prompt. The paper shows 3.
        weight_seeds (`bool`, *optional*, defaults to `True`):
            Show seeds in proportion to their votes in all rounds and, with `smooth_votes`, to how much the votes
            prefer text like them to other public text. The paper shows all alike.
        texts_per_prompt (`int`, *optional*, defaults to `1`):
            Number of new texts read from the continuation of one prompt. The paper reads one.
        continuations_per_prompt (`int`, *optional*, defaults to `1`):
            Number of continuations of one prompt, which is read once for all of them. The paper has one.
        best_of (`int`, *optional*, defaults to `2`):
            Texts written for each that is kept: the ones that are most like what the votes speak for. It costs time
            and no privacy. 1, as in the paper, keeps all; so does a run without `smooth_votes`, and an expansion of
            seeds without preferences.
        max_new_tokens (`int`, *optional*, defaults to `85`):
            Longest new text, in tokens of the expansion model; a longer one is cut after a sentence.
        min_words (`int`, *optional*, defaults to `3`):
            Generated texts with fewer words are dropped.

    > Parameters that control the data and the run

    Args:
        text_column (`str`, *optional*, defaults to `"text"`):
            Column that holds the texts, in the private and in the public dataset.
        client_column (`str`, *optional*, defaults to `"client_id"`):
            Column of the private dataset that says whose text it is: the unit that the guarantee protects.
        seed (`int`, *optional*, defaults to `0`):
            Seed of everything but the noise. The noise comes from the operating system and cannot be reproduced.

    Raises:
        ValueError: A field is out of its range, or both or neither of `epsilon` and `noise_multiplier` are given.
        TypeError: A field has the wrong type.
    """

    delta: float = field(metadata={"help": "Probability with which the guarantee may fail."})
    epsilon: float | None = field(
        default=None, metadata={"help": "Total privacy loss of the run, for one client. Or give noise_multiplier."}
    )
    noise_multiplier: float | None = field(
        default=None, metadata={"help": "Noise standard deviation over sensitivity, per round. Or give epsilon."}
    )
    num_rounds: int = field(default=3, metadata={"help": "Number of rounds T, one noisy histogram each."})
    max_samples_per_client: int = field(
        default=8, metadata={"help": "A client with more samples votes with a random subset of this many."}
    )
    vote_clipping: str = field(
        default="l2", metadata={"help": "'l2': a client's votes have L2 norm 1; 'count': the paper's counting."}
    )
    accountant: str = field(default="pld", metadata={"help": "'pld': exact; 'rdp': the paper's looser bound."})
    client_sampling_rate: float = field(
        default=1.0, metadata={"help": "Probability with which a client takes part in a round."}
    )
    neighboring_relation: str = field(
        default="add_or_remove_one", metadata={"help": "'add_or_remove_one' or 'replace_one' client."}
    )
    max_dropout: float | None = field(
        default=None,
        metadata={"help": "Share of a federation's clients that may fail to answer."},
    )

    population_size: int = field(default=1024, metadata={"help": "Number of candidates N_syn in a round."})
    votes_per_sample: int = field(default=1, metadata={"help": "Candidates that a sample votes for."})
    smooth_votes: bool = field(default=True, metadata={"help": "Take noise out of a histogram before it is used."})
    threshold: float = field(default=1.0, metadata={"help": "Histogram threshold H, in noise standard deviations."})
    new_public_share: float = field(default=1.0, metadata={"help": "Share of new public texts among candidates."})
    keep_survivors: bool = field(default=False, metadata={"help": "Keep survivors among the next candidates."})
    lookahead: int = field(
        default=0, metadata={"help": "Variations K averaged into a candidate's embedding; 0: none."}
    )
    reuse_lookahead: bool = field(default=False, metadata={"help": "Let lookahead variations be children."})

    mask_probability: float = field(default=0.3, metadata={"help": "Share of tokens one mask filling pass replaces."})
    variation_steps: int = field(default=2, metadata={"help": "Passes of variation W_steps."})
    masks_per_pass: int = field(default=1, metadata={"help": "Masks that one forward pass fills; 1 is the paper's."})
    variation_prompt: str | None = field(default=None, metadata={"help": "Instruction with {text}, for prompting."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature of every model."})
    top_p: float = field(default=1.0, metadata={"help": "Share of the probability mass that is sampled from."})
    max_length: int = field(default=64, metadata={"help": "Longest candidate, in tokens."})

    domain: str | None = field(default=None, metadata={"help": "What the texts are, in a few public words."})
    seeds_per_prompt: int = field(default=8, metadata={"help": "Seeds shown in one expansion prompt."})
    weight_seeds: bool = field(default=True, metadata={"help": "Show more often the seeds that the votes speak for."})
    texts_per_prompt: int = field(default=1, metadata={"help": "New texts read from one continuation."})
    continuations_per_prompt: int = field(default=1, metadata={"help": "Continuations of one prompt."})
    best_of: int = field(default=2, metadata={"help": "Texts written for each that is kept, by the votes."})
    max_new_tokens: int = field(default=85, metadata={"help": "Longest new text, in tokens."})
    min_words: int = field(default=3, metadata={"help": "Generated texts with fewer words are dropped."})

    text_column: str = field(default="text", metadata={"help": "Column that holds the texts."})
    client_column: str = field(default="client_id", metadata={"help": "Column that says whose text it is."})
    seed: int = field(default=0, metadata={"help": "Seed of everything but the noise."})

    def __post_init__(self) -> None:
        if (self.epsilon is None) == (self.noise_multiplier is None):
            raise ValueError(
                f"Give exactly one of `epsilon` and `noise_multiplier`: got epsilon={self.epsilon} and "
                f"noise_multiplier={self.noise_multiplier}. The other one follows from it."
            )
        self._check_number("delta", above=0, below=1, hint="Choose it well below one over the number of clients.")
        for name in ("epsilon", "noise_multiplier"):
            if getattr(self, name) is not None:
                self._check_number(name, above=0, hint="There is no guarantee without noise.")
        for name in (
            "num_rounds",
            "max_samples_per_client",
            "variation_steps",
            "masks_per_pass",
            "seeds_per_prompt",
            "texts_per_prompt",
            "continuations_per_prompt",
            "best_of",
            "max_new_tokens",
            "min_words",
        ):
            self._check_integer(name, at_least=1)
        self._check_integer("population_size", at_least=2)
        self._check_integer("votes_per_sample", at_least=1)
        if self.votes_per_sample > self.population_size:
            raise ValueError(
                f"`votes_per_sample`={self.votes_per_sample} is more than there are candidates: `population_size`="
                f"{self.population_size}."
            )
        self._check_integer("max_length", at_least=4)
        self._check_integer("lookahead", at_least=0)
        self._check_integer("seed", at_least=0)
        self._check_number("threshold", at_least=0, hint="It is counted in standard deviations of the noise.")
        self._check_number("new_public_share", at_least=0, at_most=1, hint="It is a share of the candidates.")
        self._check_number("mask_probability", above=0, at_most=1, hint="It is a share of the tokens.")
        self._check_number("temperature", above=0)
        self._check_number("top_p", above=0, at_most=1)
        self._check_number("client_sampling_rate", above=0, at_most=1, hint="It is a probability.")
        self._check_choice("neighboring_relation", NEIGHBORING_RELATIONS)
        if self.max_dropout is not None:
            self._check_number("max_dropout", at_least=0, below=0.5, hint="It is a share of the clients.")
            if self.client_sampling_rate < 1:
                raise ValueError(
                    f"`client_sampling_rate`={self.client_sampling_rate} saves noise where nobody sees who takes "
                    "part, but the server of a federation does. With `max_dropout`, let all clients take part: 1."
                )
        if self.client_sampling_rate < 1 and self.neighboring_relation == "replace_one":
            raise ValueError(
                f"`client_sampling_rate`={self.client_sampling_rate} is accounted for under `neighboring_relation`="
                "'add_or_remove_one' only. Choose that, or let all clients take part: `client_sampling_rate`=1."
            )
        self._check_choice("vote_clipping", VOTE_CLIPPINGS)
        self._check_choice("accountant", ACCOUNTANTS)
        if self.vote_clipping == "count" and self.max_samples_per_client > 1024:
            raise ValueError(
                f"`max_samples_per_client`={self.max_samples_per_client} is also the sensitivity of "
                f"`vote_clipping`='count', which is exact up to 1024. Lower it, or use `vote_clipping`='l2'."
            )
        if self.vote_clipping == "count" and self.votes_per_sample > 1:
            raise ValueError(
                f"`votes_per_sample`={self.votes_per_sample}: `vote_clipping`='count' is the paper's counting, one "
                "vote a sample. Use `vote_clipping`='l2', or `votes_per_sample`=1."
            )
        if self.reuse_lookahead is True and self.lookahead == 0:
            raise ValueError("`reuse_lookahead`=True has nothing to reuse with `lookahead`=0; set that to 1 or more.")
        for name in ("smooth_votes", "keep_survivors", "reuse_lookahead", "weight_seeds"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"`{name}`={shortened(getattr(self, name))} must be true or false.")
        if self.new_public_share > 0 and not self.smooth_votes:
            raise ValueError(
                f"`new_public_share`={self.new_public_share} draws public texts by smoothed votes, but `smooth_votes`="
                "False. Set `new_public_share`=0 as well."
            )
        for name in ("text_column", "client_column"):
            self._check_text(name)
        for name in ("domain", "variation_prompt"):
            if getattr(self, name) is not None:
                self._check_text(name)
        if self.variation_prompt is not None and "{text}" not in self.variation_prompt:
            raise ValueError(f"`variation_prompt`={self.variation_prompt!r} must say where the text goes: '{{text}}'.")
        if self.text_column == self.client_column:
            raise ValueError(f"`text_column` and `client_column` are both {self.text_column!r}; they must differ.")

    @classmethod
    def paper(cls, *, epsilon: float = 1.29, **overrides: Any) -> "PrivateEvolutionConfig":
        """Make the settings of the paper's experiments (ICML 2024, section 4 and appendix).

        The paper prints no value of the threshold `H` for these experiments; it is 0 here, which keeps every bin whose
        noisy count is positive.

        Args:
            epsilon (`float`, *optional*, defaults to `1.29`):
                The paper uses 1.29, with 1,024 candidates, and 7.58, with 2,048.
            **overrides:
                Fields to change, for example `max_samples_per_client=16`, which the paper uses for CODE.

        Returns:
            `PrivateEvolutionConfig`: The paper's settings.
        """
        settings: dict[str, Any] = {
            "epsilon": epsilon,
            "delta": 3e-6,
            "num_rounds": 11,
            "max_samples_per_client": 8,
            "vote_clipping": "count",
            "accountant": "rdp",
            "client_sampling_rate": 1.0,
            "neighboring_relation": "add_or_remove_one",
            "population_size": 1024 if epsilon < 7.58 else 2048,
            "votes_per_sample": 1,
            "smooth_votes": False,
            "threshold": 0.0,
            "new_public_share": 0.0,
            "lookahead": 4,
            "reuse_lookahead": False,
            "mask_probability": 0.3,
            "variation_steps": 2,
            "masks_per_pass": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_length": 64,
            "seeds_per_prompt": 3,
            "keep_survivors": False,
            "weight_seeds": False,
            "texts_per_prompt": 1,
            "continuations_per_prompt": 1,
            "best_of": 1,
            "max_new_tokens": 85,
        }
        return cls(**{**settings, **overrides})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PrivateEvolutionConfig":
        """Make a configuration from a dictionary; keys that this version does not know are named in a warning."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known - {"hf_pretext_version"})
        if unknown:
            warnings.warn(
                f"The configuration holds keys that hf_pretext {__version__} does not know and ignores: {unknown}. "
                f"It was written by version {values.get('hf_pretext_version', 'unknown')}.",
                stacklevel=2,
            )
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the library's version as a dictionary that JSON can hold."""
        return {**asdict(self), "hf_pretext_version": __version__}

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PrivateEvolutionConfig":
        """Read a configuration that `save_pretrained` wrote.

        Args:
            folder (`str` or `Path`): Folder that holds `private_evolution_config.json`, or that file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It does not hold a configuration.
        """
        path = Path(folder)
        path = path / CONFIG_NAME if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"`folder`={str(folder)!r} holds no {CONFIG_NAME}; `save_pretrained` writes one.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise ValueError(f"{str(path)!r} does not hold a configuration as `save_pretrained` writes it.")
        return cls.from_dict(values)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the configuration to `folder`, which is made where it does not exist."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        (path / CONFIG_NAME).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def _check_integer(self, name: str, at_least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"`{name}`={shortened(value)} must be an integer, not {type(value).__name__}.")
        if value < at_least:
            raise ValueError(f"`{name}`={value} must be at least {at_least}.")

    def _check_number(
        self,
        name: str,
        above: float | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
        below: float | None = None,
        hint: str = "",
    ) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"`{name}`={shortened(value)} must be a number, not {type(value).__name__}.")
        bounds = [
            (above is None or value > above, f"above {above}"),
            (at_least is None or value >= at_least, f"at least {at_least}"),
            (at_most is None or value <= at_most, f"at most {at_most}"),
            (below is None or value < below, f"below {below}"),
            (abs(value) != float("inf"), "finite"),
        ]
        # A comparison with NaN is false, so NaN fails every bound.
        broken = [words for holds, words in bounds if not holds]
        if broken:
            raise ValueError(f"`{name}`={value} must be {' and '.join(broken)}. {hint}".strip())

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise ValueError(f"`{name}`={shortened(value)} must be one of {list(choices)}.")

    def _check_text(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"`{name}`={shortened(value)} must be a non-empty string.")
