"""Audits: how much an attacker does learn about clients, as a lower bound on epsilon.

An audit is planned before a run. Canary clients with made-up texts, and some real clients, participate or not by a
coin flip each (`targets`). After the run an attack scores each of them (`attacks`), and guesses who participated.
Guesses that are right more often than an epsilon allows refute that epsilon. The largest that is refuted is the bound
(`bounds`, by Steinke, Nasr and Jagielski 2023, arXiv 2305.08846). For synthetic text and client-level splits see arXiv
2606.16952, for canaries and mu-GDP arXiv 2606.10481. A bound below the claim refutes nothing. It says how strong this
attack was.

Nothing here is covered by a guarantee: coins, scores and bounds are about private data and belong to its owner.
"""

from .attacks import loss_scores as loss_scores
from .attacks import ngram_scores as ngram_scores
from .attacks import similarity_scores as similarity_scores
from .attacks import target_texts as target_texts
from .attacks import vote_scores as vote_scores
from .bounds import AuditReading as AuditReading
from .bounds import epsilon_lower_bound as epsilon_lower_bound
from .bounds import mu_lower_bound as mu_lower_bound
from .bounds import read_scores as read_scores
from .targets import Targets as Targets
from .targets import make_canaries as make_canaries
from .targets import sample_targets as sample_targets
