import numpy as np
import pytest

from distill.export.rounding import Moments, bias_shift, half, round_rows, spread, steps_of


def world(rows=200, columns=24, seed=0):
    """A table, and queries that lie in a few directions and have a mean, as real ones do."""
    random = np.random.default_rng(seed)
    table = random.normal(size=(rows, columns)).astype(np.float32)
    sizes = 0.5 ** np.arange(columns) + 0.05
    queries = (random.normal(size=(3000, columns)) * sizes + 0.3) @ np.linalg.qr(random.normal(size=(columns,) * 2))[0]
    return table, queries.astype(np.float32)


def test_rows_round_trip_within_half_a_step():
    table, _ = world()
    steps = steps_of(table, 127)
    codes = round_rows(table, spread(steps, 24), 127)
    assert codes.dtype == np.int8 and np.abs(codes).max() <= 127 and steps.dtype == np.float16
    assert (np.abs(codes * spread(steps, 24) - table) <= 0.51 * spread(steps, 24)).all()


def test_zero_rows_stay_zero():
    codes = round_rows(np.zeros((3, 8), np.float32), spread(steps_of(np.zeros((3, 8)), 7, 4), 8), 7)
    assert not codes.any()


def test_items_with_short_vectors_are_not_rounded_away():
    random = np.random.default_rng(0)
    norms = random.lognormal(0, 3, (20_000, 1))  # the longest is about 10^9 times the shortest
    matrix = (random.normal(size=(20_000, 8)) * norms).astype(np.float32)
    together = np.rint(matrix / (np.abs(matrix).max() / 127))
    steps = steps_of(matrix, 127)
    assert steps.dtype == np.float32  # float16 can't hold these
    codes = round_rows(matrix, steps, 127)
    assert (np.abs(together).max(axis=1) == 0).mean() > 0.5  # what one scale for the table would do
    assert (np.abs(codes).max(axis=1) == 127).all()
    error = np.linalg.norm(codes * steps - matrix, axis=1) / np.linalg.norm(matrix, axis=1)
    assert error.max() < 0.01


@pytest.mark.parametrize("limit", [127, 7])
def test_calibrated_rounding_halves_the_error_of_the_scores(limit):
    table, queries = world()
    moments = Moments.of(queries)
    step = spread(steps_of(table, limit, 0, moments), 24)
    errors = {}
    for name, known in (("plain", None), ("calibrated", moments)):
        stored = round_rows(table, step, limit, known) * step
        scores = queries @ (stored - table).T + (bias_shift(table, stored, moments) if known else 0)
        errors[name] = scores.std()
        assert known is None or abs(scores.mean(axis=0)).max() < 1e-4  # the bias takes the mean
    assert errors["calibrated"] < 0.5 * errors["plain"]


def test_no_single_code_can_be_changed_for_the_better():
    table, queries = world(rows=20)
    moments = Moments.of(queries)
    step = spread(steps_of(table, 7, 0, moments), 24)
    codes = round_rows(table, step, 7, moments).astype(int)
    covariance = moments.damped()

    def cost(c):
        error = c * step - table
        return np.einsum("rc,cd,rd->r", error, covariance, error)

    best = cost(codes)
    worse = 0
    for column in range(24):
        for change in (-1, 1):
            other = codes.copy()
            other[:, column] = np.clip(other[:, column] + change, -7, 7)
            worse += np.count_nonzero(cost(other) < best - 1e-9)
    assert worse <= 0.01 * 20 * 48  # a few rows may not have settled after three passes


def test_clipping_is_chosen_where_it_pays():
    outlier = np.full((1, 32), 0.1, np.float32) * np.linspace(0.5, 1, 32, dtype=np.float32)
    outlier[0, 0] = 0.14
    open_step = np.abs(outlier).max() / 7
    assert steps_of(outlier, 7)[0, 0] < open_step
    assert steps_of(outlier, 127)[0, 0] == pytest.approx(0.14 / 127, rel=1e-3)


def test_groups_have_steps_of_their_own():
    table = np.concatenate([np.ones((2, 16)), 100 * np.ones((2, 16))], axis=1).astype(np.float32)
    steps = steps_of(table, 7, 16)
    assert steps.shape == (2, 2) and steps[0, 1] / steps[0, 0] == pytest.approx(100, rel=1e-2)
    assert spread(steps, 32).shape == (2, 32)


def test_half_falls_back_to_float32_out_of_range():
    assert half(np.array([1e-3, 10.0])).dtype == np.float16
    assert half(np.array([1e-9])).dtype == np.float32 and half(np.array([1e6])).dtype == np.float32


def test_moments_of_a_projection_are_those_of_the_projected():
    _, queries = world()
    basis = np.random.default_rng(3).normal(size=(5, 24))
    direct, derived = Moments.of(queries @ basis.T), Moments.of(queries).projected(basis)
    np.testing.assert_allclose(derived.mean, direct.mean, atol=1e-5)
    np.testing.assert_allclose(derived.covariance, direct.covariance, atol=1e-4)
