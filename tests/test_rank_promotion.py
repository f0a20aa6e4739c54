"""Rank promotion is an error in all tests."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

PROGRAM = "import jax.numpy as jnp; jnp.ones((2, 3)) + jnp.ones(3)"


def test_promotion_of_ranks_is_error():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_promotion_of_ranks_is_error_in_programs_that_tests_start():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert "rank_promotion" in ran.stderr
