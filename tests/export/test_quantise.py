import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distill.export.quantise import dequantise_rows, quantise_rows

matrices = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(-1e6, 1e6, width=32))


@given(matrices)
def test_every_entry_is_within_half_a_step(matrix):
    codes, scale = quantise_rows(matrix)
    assert codes.dtype == np.int8 and scale.dtype == np.float32 and scale.shape == (len(matrix),)
    assert np.abs(codes.astype(int)).max() <= 127
    error = np.abs(matrix.astype(np.float64) - codes.astype(np.float64) * scale[:, None].astype(np.float64))
    assert (error <= scale[:, None] * (0.5 + 1e-4)).all()


def test_the_largest_entry_of_each_row_gets_the_largest_code():
    matrix = np.array([[0.1, -0.4, 0.2], [300.0, 10.0, -20.0]], np.float32)
    codes, scale = quantise_rows(matrix)
    assert codes[0, 1] == -127 and codes[1, 0] == 127
    np.testing.assert_allclose(dequantise_rows(codes, scale), matrix, atol=300 / 254 + 1e-6)


def test_a_row_of_zeros_stays_zero():
    codes, scale = quantise_rows(np.zeros((2, 4), np.float32))
    assert not codes.any() and (scale == 1).all()


def test_items_with_short_vectors_are_not_rounded_away():
    random = np.random.default_rng(0)
    norms = random.lognormal(0, 3, (20_000, 1))  # the longest is about 10^9 times the shortest
    matrix = (random.normal(size=(20_000, 8)) * norms).astype(np.float32)
    together = np.rint(matrix / (np.abs(matrix).max() / 127))
    codes, scale = quantise_rows(matrix)
    assert (np.abs(together).max(axis=1) == 0).mean() > 0.5  # what one scale for the table would do
    assert (np.abs(codes).max(axis=1) == 127).all()
    error = np.linalg.norm(dequantise_rows(codes, scale) - matrix, axis=1) / np.linalg.norm(matrix, axis=1)
    assert error.max() < 0.01
