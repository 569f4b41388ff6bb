"""Reading of synthetic texts to finetune on, with what is guaranteed about them."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..artifacts import CONFIG_NAME, PICTURE_NAME, REPORT_NAME, SELECTION_NAME
from ..configuration import PrivateEvolutionConfig
from ..coverage import mark, marks_of, texts_of
from ..data import list_rows, read_texts
from ..forms import MESSAGES, Chat, Form, Plain, Record, form_of
from ..hub import fetch_folder, find_privacy_report, is_of_a_run
from ..privacy.report import PrivacyReport

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass
class FinetuningArguments:
    """What to finetune on. There is no test set: checkpoints are chosen on a part of the synthetic texts."""

    dataset: str = field(metadata={"help": "Synthetic texts: a dataset repository of the Hub, a folder or a file."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the repository."})
    text_column: str | None = field(
        default=None,
        metadata={"help": "Column of texts. By default what the run that made them says, else `text` or `messages`."},
    )
    public_dataset: str | None = field(
        default=None,
        metadata={"help": "Public texts, like `dataset`. That no client's text is among them is for you to see to."},
    )
    public_fraction: float = field(
        default=0.0,
        metadata={"help": "Fraction of the texts to train on that are drawn from `public_dataset` and mixed in."},
    )
    validation_share: float = field(
        default=0.1,
        metadata={"help": "Fraction of the texts that the checkpoint is chosen by."},
    )
    license: str | None = field(default=None, metadata={"help": "License of the finetuned model, for its card."})
    base_is_public: bool = field(
        default=False,
        metadata={"help": "You vouch that the base model saw no text of the clients, if this cannot be looked up."},
    )
    allow_no_guarantee: bool = field(
        default=False, metadata={"help": "Push a model even if no finite guarantee of its texts is known."}
    )


@dataclass(frozen=True)
class PublicPart:
    """Public texts among those of a training. That they are public is the word of whoever trains.

    Args:
        num_texts (`int`): Their number.
        name (`str`): What to call them.
        hub_id (`str`, *optional*): Their repository on the Hub.
        revision (`str`, *optional*): Its commit.
        report (`PrivacyReport`, *optional*): What a report says of them, such as of the run that chose them.
        is_derived (`bool`): Whether a report comes with some of them, though it may not cover all.
        is_selected (`bool`): Whether a run chose them among public ones.
    """

    num_texts: int
    name: str
    hub_id: str | None
    revision: str | None
    report: PrivacyReport | None
    is_derived: bool
    is_selected: bool


@dataclass(frozen=True)
class TrainingTexts:
    """Synthetic texts, split for training, and what is guaranteed about them.

    Args:
        train (`datasets.Dataset`): Column `text`, or `messages` for conversations. Public texts may be mixed in.
        validation (`datasets.Dataset`): The same column, for choosing a checkpoint. All of it is synthetic.
        report (`PrivacyReport`, *optional*): The guarantee, if one is known of every text.
        name (`str`): What to call the texts.
        hub_id (`str`, *optional*): Their repository on the Hub.
        revision (`str`, *optional*): Its commit.
        picture (`Path`, *optional*): The picture of the run that made them.
        is_derived (`bool`): Whether a report comes with some of them, though it may not cover all.
        is_selected (`bool`): Whether they are public texts that a run chose, and not synthetic ones.
        public (`PublicPart`, *optional*): The public texts in `train`.
        first_stage (`TrainingTexts`, *optional*): The public texts that the model learns from before these, if so.
    """

    train: "Dataset"
    validation: "Dataset"
    report: PrivacyReport | None
    name: str
    hub_id: str | None = None
    revision: str | None = None
    picture: Path | None = None
    is_derived: bool = False
    is_selected: bool = False
    public: PublicPart | None = None
    first_stage: "TrainingTexts | None" = None

    @property
    def num_synthetic(self) -> int:
        """Number of synthetic texts to train on."""
        return len(self.train) - (self.public.num_texts if self.public is not None else 0)


def take_over_text_field(arguments: FinetuningArguments, training: Any) -> None:
    """Read texts from the column that `dataset_text_field` of TRL names, if the recipe was given that name only.

    The texts of a training are always in column `text` (`TrainingTexts`), so that is what the trainer then reads.

    Args:
        arguments (`FinetuningArguments`): Their `text_column` becomes the other name.
        training (`SFTConfig`): Its `dataset_text_field` becomes `"text"`.

    Raises:
        ValueError: Both name a column, and not the same one.
    """
    field = training.dataset_text_field
    if field not in (None, "text") and arguments.text_column not in (None, "text", field):
        raise ValueError(
            f"`text_column`={arguments.text_column!r} and `dataset_text_field`={field!r} both say where the texts of "
            "`dataset` are. Give one of them."
        )
    if field not in (None, "text"):
        arguments.text_column = field
    training.dataset_text_field = "text"


def load_training_texts(arguments: FinetuningArguments, seed: int = 0) -> TrainingTexts:
    """Read synthetic texts, find their guarantee, and set a fraction of them aside for validation.

    Conversations stay lists of turns, which `trl` writes by the model's own chat template. Records become texts by the
    template of the run that made them, which `private_evolution_config.json` beside the data names.

    With `public_fraction`, public texts are mixed in, a fixed fraction of all of those to train on, which is the
    simplest mixture of [Albalak et al. 2023](https://huggingface.co/papers/2312.02406). They are drawn without
    replacement. The texts for validation stay synthetic, because the model is to learn those.

    Args:
        arguments (`FinetuningArguments`): Where they are.
        seed (`int`, *optional*, defaults to `0`): Seed of the split.

    Raises:
        FileNotFoundError: There is no such folder, file or repository.
        ValueError: There are fewer than two texts, a column is missing, a fraction is not between 0 and 1, or there
            are fewer public texts than it asks for.
    """
    _check_fraction(arguments)
    texts = _load(arguments, seed)
    if not arguments.public_fraction:
        return texts
    return _with_public(texts, arguments, load_public_texts(arguments, seed), seed)


def load_public_texts(arguments: FinetuningArguments, seed: int = 0) -> TrainingTexts:
    """Read the texts of `public_dataset` as those of `dataset` are read, also with what a report says of them."""
    assert arguments.public_dataset is not None  # The callers have looked.
    try:
        return _load(replace(arguments, dataset=arguments.public_dataset, dataset_revision=None), seed)
    except ValueError as error:
        raise ValueError(str(error).replace("`dataset`", "`public_dataset`")) from None


def _check_fraction(arguments: FinetuningArguments) -> None:
    fraction = arguments.public_fraction
    if not 0 <= fraction < 1:
        raise ValueError(f"`public_fraction`={fraction} must be at least 0 and below 1: some texts are synthetic.")
    if fraction and arguments.public_dataset is None:
        raise ValueError(f"`public_fraction`={fraction} mixes public texts in, so it needs a `public_dataset`.")


def _with_public(
    texts: TrainingTexts, arguments: FinetuningArguments, public: TrainingTexts, seed: int
) -> TrainingTexts:
    """Mix public texts into those to train on."""
    from datasets import Dataset

    fraction, number = arguments.public_fraction, len(texts.train)
    wanted = max(1, round(number * fraction / (1 - fraction)))
    (column,) = texts.train.column_names
    if public.train.column_names != [column]:
        raise ValueError(
            f"`public_dataset`={arguments.public_dataset!r} has rows of another kind than `dataset`: its column is "
            f"{public.train.column_names[0]!r}, and that of the synthetic texts is {column!r}."
        )
    there = [*public.train[column], *public.validation[column]]
    if len(there) < wanted:
        raise ValueError(
            f"`public_fraction`={fraction} needs {wanted} public texts for {number} synthetic ones, but "
            f"`public_dataset`={arguments.public_dataset!r} has {len(there)}. Give more, or lower the fraction."
        )
    rng = np.random.default_rng([seed, 1])
    mixed = [*texts.train[column], *(there[index] for index in rng.permutation(len(there))[:wanted])]
    rows = Dataset.from_dict({column: [mixed[index] for index in rng.permutation(len(mixed))]})
    part = PublicPart(
        num_texts=wanted,
        name=public.name,
        hub_id=public.hub_id,
        revision=public.revision,
        report=public.report,
        is_derived=public.is_derived,
        is_selected=public.is_selected,
    )
    return replace(texts, train=rows, public=part)


def _load(arguments: FinetuningArguments, seed: int) -> TrainingTexts:
    """Read texts of one dataset."""
    if not 0 < arguments.validation_share < 1:
        raise ValueError(f"`validation_share`={arguments.validation_share} must lie strictly between 0 and 1.")
    name, revision = arguments.dataset, arguments.dataset_revision
    form, dataset = _read(arguments)
    column, values = _rows(form, dataset)
    if len(values) < 2:
        raise ValueError(f"`dataset`={name!r} holds {len(values)} texts that are not blank. It needs at least 2.")
    report = find_privacy_report(dataset, name, revision=revision, text_column=form.source)
    hub_id = commit = picture = None
    is_derived = bool(marks_of(dataset)) or (Path(name).exists() and is_of_a_run(name))
    is_selected = False
    if not Path(name).is_file():
        folder = fetch_folder(name, [PICTURE_NAME, REPORT_NAME, SELECTION_NAME], revision)
        is_selected = (folder / SELECTION_NAME).is_file()
        is_derived = is_derived or (folder / REPORT_NAME).is_file()
        picture = folder / PICTURE_NAME if (folder / PICTURE_NAME).is_file() else None
        if not Path(name).exists():
            # The cache names a snapshot's folder after its commit.
            hub_id, commit = name, folder.name
    from datasets import Dataset

    # In memory, where a trainer's `map` leaves no files beside the data.
    rows = Dataset.from_dict({column: values})
    if report is not None:
        mark(rows, report, texts_of(rows, columns=[column]))
    split = rows.train_test_split(test_size=arguments.validation_share, seed=seed)
    return TrainingTexts(
        train=split["train"],
        validation=split["test"],
        report=report,
        name=public_name(name),
        hub_id=hub_id,
        revision=commit,
        picture=picture,
        is_derived=is_derived,
        is_selected=is_selected,
    )


def _read(arguments: FinetuningArguments) -> tuple[Form, "Dataset"]:
    """Read the columns that are asked for, those that the run of the dataset names, or those that it has."""
    name, column, revision = arguments.dataset, arguments.text_column, arguments.dataset_revision
    chat = Chat(MESSAGES, ("user", "assistant"))
    forms: list[Form] = [Plain("text"), chat] if column is None else [chat if column == MESSAGES else Plain(column)]
    record = _record_of_run(name, revision) if column is None else None
    forms = forms if record is None else [record]
    problem = None
    for form in forms:
        texts = form.column if isinstance(form, Plain) else None
        try:
            return form, read_texts(name, texts, other_columns=form.source, revision=revision)
        except ValueError as error:
            problem = problem or error
    assert problem is not None  # There is at least one form.
    raise problem


def _record_of_run(name: str, revision: str | None) -> Record | None:
    """Return what a row is by the settings beside the data, if the run that made it wrote records."""
    try:
        folder = Path(name) if Path(name).is_file() else fetch_folder(name, [CONFIG_NAME], revision)
    except FileNotFoundError:
        return None  # Whoever reads the texts says so.
    form = form_of(PrivateEvolutionConfig.from_pretrained(folder)) if (folder / CONFIG_NAME).is_file() else None
    return form if isinstance(form, Record) else None


def _rows(form: Form, dataset: "Dataset") -> tuple[str, list[Any]]:
    """Return the column that is trained on, and its values that are not blank."""
    if isinstance(form, Chat):
        return MESSAGES, [turns for turns in dataset.with_format(None)[form.column] if turns]
    return "text", [text for text in list_rows(dataset, form, "dataset") if text.strip()]


def public_name(name: str) -> str:
    """Return a name that may be published: of an absolute path, only its last two parts."""
    return "/".join(Path(name).resolve().parts[-2:]) if Path(name).is_absolute() else name
