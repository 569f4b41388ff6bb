"""The questions that clients can be asked, one file each. None of this needs torch."""

from .labeled_candidates import NearestLabeledCandidates as NearestLabeledCandidates
from .labeled_mean import LabeledMeanEmbedding as LabeledMeanEmbedding
from .mean_embedding import MeanEmbedding as MeanEmbedding
from .nearest_candidates import NearestCandidates as NearestCandidates
from .question import Question as Question
from .summing import QUESTIONS as QUESTIONS
from .summing import SAMPLES_AT_ONCE as SAMPLES_AT_ONCE
from .summing import check_question as check_question
from .summing import sum_answers as sum_answers
from .token_counts import LabeledTokenCounts as LabeledTokenCounts
from .token_counts import TokenCounts as TokenCounts
