"""Run a recipe's script and write down what this process saw: `torchrun watched.py FOLDER SCRIPT [ARGUMENTS]`."""

import json
import os
import runpy
import sys
from pathlib import Path

import torch

from hf_pretext import PrivateEvolutionGenerator
from hf_pretext.privacy.noise import DiscreteGaussian

SEEN = {"noise_draws": 0}


def watch_noise():
    draw = DiscreteGaussian.__call__

    def counting(self, scale, size):
        SEEN["noise_draws"] += 1
        return draw(self, scale, size)

    DiscreteGaussian.__call__ = counting


def watch_generator():
    expand = PrivateEvolutionGenerator.expand

    def recording(self, seeds, num_samples):
        synthetic = expand(self, seeds, num_samples)
        SEEN.update(
            initial_population=self.initial_population,
            seeds=self.seeds.to_list(),
            synthetic=list(synthetic["text"]),
            report=self.privacy_report.to_dict(),
        )
        return synthetic

    PrivateEvolutionGenerator.expand = recording


if __name__ == "__main__":
    folder, script, *arguments = sys.argv[1:]
    recipe = Path(__file__).parents[2] / "recipes" / f"{script}.py"
    sys.argv = [str(recipe), *arguments]
    sys.path[0] = str(recipe.parent)
    watch_noise()
    watch_generator()
    try:
        runpy.run_path(str(recipe), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    SEEN["world_size"] = torch.distributed.get_world_size()
    Path(f"{folder}-{script}-rank-{os.environ['RANK']}.json").write_text(json.dumps(SEEN))
