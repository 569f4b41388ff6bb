"""Audits: how much an attacker learns about clients, as a lower bound on epsilon.

An audit is planned before a run. Canary clients with made-up texts, and some real clients, participate or not by a
coin flip each (`targets`). The canaries are among the candidates of every round (`canaries`). After the run, attacks
guess who participated.

The primary attack is named beforehand: it reads what the canaries change in the releases as mu, with an interval
(`primary`). Secondary attacks score targets by releases, texts and models (`attacks`), and are read by a bound that
holds for any mechanism (`bounds`, by Steinke, Nasr and Jagielski 2023, arXiv 2305.08846). `verdict` holds all of them
against the claim, at a confidence that pays for their number. For synthetic text and client-level splits see arXiv
2606.16952, for canaries and mu-GDP arXiv 2606.10481. A bound below the claim refutes nothing. It shows how strong the
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
from .canaries import AuditedGenerator as AuditedGenerator
from .canaries import PopulationWithCanaries as PopulationWithCanaries
from .canaries import Released as Released
from .primary import MuReading as MuReading
from .primary import canary_scores as canary_scores
from .primary import check_coins as check_coins
from .primary import mu_interval as mu_interval
from .primary import read_mu as read_mu
from .targets import Targets as Targets
from .targets import check_is_plain as check_is_plain
from .targets import make_canaries as make_canaries
from .targets import sample_targets as sample_targets
from .verdict import Audit as Audit
from .verdict import read_audit as read_audit
from .verdict import read_audit_scores as read_audit_scores
