"""The quickstart: a whole run on real text with real models, in minutes on two cores, without any hub."""

import json
import logging
import time
from pathlib import Path

from .configuration import PrivateEvolutionConfig
from .evaluation import frechet_distance
from .generator import PrivateEvolutionGenerator
from .models import load_sentence_transformer, resolve_device
from .packaged_models import packaged_embedder, packaged_llm
from .plays import load_plays

logger = logging.getLogger(__name__)

NUM_SAMPLES = 256

QUICKSTART_CONFIG = PrivateEvolutionConfig(
    epsilon=3.0,
    delta=1e-5,
    num_rounds=4,
    population_size=256,
    lookahead=0,
    variation_steps=1,
    max_length=64,
    domain="short speeches by characters in a stage play",
    texts_per_prompt=3,
    max_new_tokens=48,
)
