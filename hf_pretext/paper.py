"""The settings of the paper's experiments (ICML 2024, section 4 and appendix), for `PrivateEvolutionConfig.paper`."""

from typing import Any

PAPER: dict[str, Any] = {
    "delta": 3e-6,
    "num_rounds": 11,
    "mean_fraction": 0.0,
    "token_fraction": 0.0,
    "max_samples_per_client": 8,
    "vote_clipping": "count",
    "accountant": "rdp",
    "client_sampling_rate": 1.0,
    "neighboring_relation": "add_or_remove_one",
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
"""Everything but the budget and the number of candidates, which differs by it."""
