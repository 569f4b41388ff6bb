"""Algorithm 1 as post-processing on arrays: the loop, the candidates, the evidence, the selection. Without torch."""
