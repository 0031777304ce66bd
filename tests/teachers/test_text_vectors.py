"""TF-IDF vectors of item texts."""

import torch

from teachers.text_vectors import tfidf_vectors

TEXTS = ["red gel pen", "blue gel pen", "office chair", "leather office chair", "", "unique"]


def test_texts_that_share_words_are_near():
    vectors = tfidf_vectors(TEXTS, 4, seed=0)
    cosines = vectors @ vectors.T
    assert cosines[0, 1] > 0.9
    assert cosines[2, 3] > 0.9
    assert cosines[0, 2].abs() < 0.1


def test_vectors_are_unit_or_zero_and_repeatable():
    vectors = tfidf_vectors(TEXTS, 4, seed=0)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors[:4].norm(dim=1), torch.ones(4))
    assert vectors[4:].norm() == 0
    assert torch.equal(vectors, tfidf_vectors(TEXTS, 4, seed=0))


def test_texts_without_a_shared_word_give_zeros():
    assert tfidf_vectors(["a1", "b2", ""], 4, seed=0).tolist() == [[0.0]] * 3
