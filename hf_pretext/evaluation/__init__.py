"""How near synthetic texts are to held-out text, and how well models predict it. Covered by no guarantee."""

from ..lazy import lazy_names

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "NextTokenAccuracy": "metrics",
        "TextDistribution": "metrics",
        "TokenScores": "scoring",
        "gap_closed": "measures",
        "paired_bootstrap": "scoring",
        "score_next_tokens": "scoring",
    },
)
