"""A generator that is finetuned with differential privacy on the private texts, and then writes (central data).

After Kurakin et al. 2023 (arXiv 2306.01684): DP-SGD on LoRA adapters of a language model, which then writes from a
prompt. Here the unit is the client. The texts of a client are one example of a bounded length, so that the guarantee
of an example is that of a client. Gradients of examples, clipping, Poisson sampling and noise are those of `opacus`.

*Where the data are*: all texts lie in one process, which trains on them. No client computes anything. *Released*: the
noisy sum of the clipped gradients of each step. *Sensitivity*: an example's gradient is clipped to an L2 norm of
`clip_norm`, and depends on the texts of its client only. *Accounting*: `hf_pretext.privacy`, for Gaussian releases on
Poisson samples of the clients. The noise is a seeded generator's floating-point numbers, for comparison only.

What is scaled down to two cores: SmolLM2-135M instead of an 8B model, four steps on a quarter of the clients each, and
examples of 64 tokens. Adapters have rank 1 instead of 8, because there are a thousand clients and not a hundred
thousand texts: fewer weights get less noise.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from datasets import Dataset
from huggingface_hub.utils import tqdm
from transformers import set_seed

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.privacy import calibrate_noise_multiplier
from hf_pretext.prompts import ListPrompt

from .cache import Result
from .learners import copy_llm, with_adapters
from .trial import Trial

IGNORED = -100
"""Label of a position that does not count."""

EXAMPLES_AT_ONCE = 8
"""Examples whose gradients are in memory at a time."""


@dataclass(frozen=True)
class DPFinetuning:
    """How the generator is finetuned.

    Args:
        num_steps (`int`, *optional*, defaults to `4`): Steps of DP-SGD.
        sampling_rate (`float`, *optional*, defaults to `0.25`): Probability with which a client is in a step.
        clip_norm (`float`, *optional*, defaults to `1.0`): Largest L2 norm of a client's gradient.
        rate (`float`, *optional*, defaults to `1e-3`): Learning rate of Adam.
        rank (`int`, *optional*, defaults to `1`): Rank of the adapters. More weights would be more noise.
        max_tokens (`int`, *optional*, defaults to `64`): Tokens of a client that count.
    """

    num_steps: int = 4
    sampling_rate: float = 0.25
    clip_norm: float = 1.0
    rate: float = 1e-3
    rank: int = 1
    max_tokens: int = 64


def examples_of(
    tokenizer: Any, clients: Sequence[Sequence[str]], prompt: ListPrompt, max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make one example of each client: its texts, as the prompt lists them, cut to a number of tokens.

    The title of the list and the first heading come before, and are the same for all. They are read and not learned.

    Returns:
        `tuple` of two `torch.Tensor` of shape `(len(clients), title + max_tokens)`: Tokens, and labels.
    """
    title = len(tokenizer(prompt.write([], 1).rstrip())["input_ids"])
    input_ids = torch.zeros(len(clients), title + max_tokens, dtype=torch.long)
    labels = torch.full_like(input_ids, IGNORED)
    for row, texts in enumerate(clients):
        ids = tokenizer(prompt.write(texts, 1))["input_ids"][: title + max_tokens]
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, title : len(ids)] = torch.tensor(ids[title:], dtype=torch.long)
    return input_ids, labels


def losses_of_examples(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the mean cross-entropy of the tokens of each example, which depends on no other example.

    The loss of transformers is a mean over all tokens of a batch. With it, the length of one client's texts would
    scale the gradients of others before they are clipped.
    """
    following = labels[:, 1:]
    counts = following != IGNORED
    log_chances = logits[:, :-1].float().log_softmax(-1).gather(2, following.clamp(min=0)[:, :, None]).squeeze(2)
    return -(log_chances * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)


def finetune_privately(
    model: Any,
    examples: tuple[torch.Tensor, torch.Tensor],
    settings: DPFinetuning,
    epsilon: float,
    delta: float,
    seed: int,
) -> Any:
    """Train the weights of a model that require gradients, by DP-SGD with one example per client.

    Args:
        model (`PeftModel`): The model. It is changed.
        examples (`tuple` of two `torch.Tensor`): Tokens and labels (see `examples_of`).
        settings (`DPFinetuning`): How to train.
        epsilon (`float`): Privacy loss of a client, over all steps.
        delta (`float`): The additive term of (epsilon, delta)-differential privacy.
        seed (`int`): Seed of the samples of the clients, and of the noise.

    Returns:
        The trained model.
    """
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler

    input_ids, labels = (each.to(model.device) for each in examples)
    rate, num_clients = settings.sampling_rate, len(input_ids)
    watched = GradSampleModule(model.train(), loss_reduction="mean")
    weights = [each for each in model.parameters() if each.requires_grad]
    optimizer = DPOptimizer(
        torch.optim.Adam(weights, lr=settings.rate),
        noise_multiplier=calibrate_noise_multiplier(epsilon, delta, settings.num_steps, sampling_rate=rate),
        max_grad_norm=settings.clip_norm,
        expected_batch_size=max(1, round(rate * num_clients)),
        generator=torch.Generator(model.device).manual_seed(seed),
    )
    samples = UniformWithReplacementSampler(
        num_samples=num_clients,
        sample_rate=rate,
        generator=torch.Generator().manual_seed(seed),
        steps=settings.num_steps,
    )
    for drawn in tqdm(samples, "DP-SGD", unit="step"):
        # If no client is drawn, the step is noise alone.
        parts = [drawn[start : start + EXAMPLES_AT_ONCE] for start in range(0, len(drawn), EXAMPLES_AT_ONCE)] or [[]]
        for number, part in enumerate(parts, start=1):
            if part:
                own = labels[part]
                logits = watched(input_ids=input_ids[part], attention_mask=(own != IGNORED).long()).logits
                losses_of_examples(logits, own).mean().backward()
            else:
                for each in weights:
                    each.grad_sample = torch.zeros(0, *each.shape, device=each.device)
            optimizer.signal_skip_step(do_skip=number < len(parts))
            optimizer.step()
            optimizer.zero_grad()
    watched.to_standard_module()
    return model.eval()


def dp_generator_texts(trial: Trial) -> Result:
    """Finetune the language model with privacy, and let it write from prompts of public texts, the method's seeds."""
    settings, config, models, delta = DPFinetuning(), trial.writing_config, trial.models, trial.arguments.delta
    public = trial.seeds().value
    inputs = {**trial.inputs_of_texts(config, public["text"]), "settings": asdict(settings)}

    def write() -> list[str]:
        model, tokenizer = copy_llm(models)
        set_seed(trial.seed)
        model = with_adapters(model, settings.rank)
        examples = examples_of(tokenizer, trial.experiment.clients, ListPrompt.of(config), settings.max_tokens)
        model = finetune_privately(model, examples, settings, trial.budget, delta, trial.seed)
        writer, size = (model.get_base_model(), tokenizer), trial.arguments.batch_size
        generator = PrivateEvolutionGenerator(None, models.embedder, writer, config=config, batch_size=size)
        return list(generator.expand(Dataset.from_dict(public), trial.number)["text"])

    return trial.cache("texts", inputs, write)
