"""Measures of how near synthetic texts are to reference texts.

A measure against private text is an evaluation, not a release: the guarantee of a run does not cover it.
"""

import numpy as np


def frechet_distance(reference: np.ndarray, other: np.ndarray, num_components: int = 32) -> float:
    """Compute the Fréchet distance between Gaussians fitted to two sets of embeddings.

    `|m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))`, on the first principal components of the reference (Heusel et
    al. 2017, arXiv 1706.08500). The larger set is cut to the size of the smaller one, because the estimate depends on
    the number of samples.

    Args:
        reference (`np.ndarray` of shape `(n, d)`):
            Embeddings of the reference texts; the components are fitted on all of them.
        other (`np.ndarray` of shape `(m, d)`): Embeddings of the texts to judge.
        num_components (`int`, *optional*, defaults to `32`): Number of principal components.

    Returns:
        `float`: The distance, in squared units of the embedding; 0 for equal means and covariances.

    Raises:
        ValueError: There are fewer texts than components on a side.
    """
    size = min(len(reference), len(other))
    if size <= num_components:
        raise ValueError(
            f"`num_components`={num_components} needs more texts on both sides than the {size} there are."
        )
    center = reference.mean(axis=0)
    components = np.linalg.svd(reference - center, full_matrices=False)[2][:num_components]
    # The same fixed choice at every call, so that two distances to one reference compare the same texts.
    rng = np.random.default_rng(0)
    first, second = (
        (points[rng.permutation(len(points))[:size]] - center) @ components.T for points in (reference, other)
    )
    shift = first.mean(axis=0) - second.mean(axis=0)
    covariances = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    # The product of two covariances has real eigenvalues that are not negative, up to rounding.
    cross = np.sqrt(np.maximum(np.linalg.eigvals(covariances[0] @ covariances[1]).real, 0)).sum()
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross)
