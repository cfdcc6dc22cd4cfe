"""Random numbers of commands, from their seed."""

import numpy as np
from numpy.random import Generator


def random_generator(seed: int) -> Generator:
    """Random numbers that the same seed gives again.

    Raises:
        ValueError: If the seed is below 0.
    """
    if seed < 0:
        message = f"seed is {seed}: give a whole number from 0"
        raise ValueError(message)
    return np.random.default_rng(seed)
