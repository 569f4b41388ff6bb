"""What `hf-pretext plan` prints: the bill of a run, or those of both cases that only a look at a server can tell."""

from collections.abc import Mapping
from typing import Any

from .configuration import PrivateEvolutionConfig
from .privacy.bill import bill
from .privacy.plan import Plan, with_token_fraction


def bills(run: Mapping[str, Any], settings: Mapping[str, Any], num_clients: int | None) -> str:
    """Write what a run will spend. No model is loaded, no server asked, and no private text read.

    Args:
        run (`Mapping`): Arguments of the run, such as `expansion_model`.
        settings (`Mapping`): Its settings.
        num_clients (`int`, *optional*): About how many clients there are. It counts as public.
    """
    config, model = PrivateEvolutionConfig(**settings), str(run.get("expansion_model") or "")
    is_served = model.startswith(("http://", "https://"))
    plain, tilted = (with_token_fraction(config, can_tilt) for can_tilt in (False, True))
    if not is_served or plain == tilted:
        decided = tilted if model else plain
        return bill(decided, Plan.from_config(decided), num_clients)
    both = {
        "If it takes a bias of tokens, and its model's tokenizer is on this machine:": tilted,
        "If not:": plain,
    }
    return "\n\n".join(
        [
            "`expansion_model` is at an address. The run asks its server, when it begins, whether it can use token "
            "counts. Both cases cost the same epsilon. Set `token_fraction` to choose one.",
            *(f"{words}\n\n{bill(case, Plan.from_config(case), num_clients)}" for words, case in both.items()),
        ]
    )
