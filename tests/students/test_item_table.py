"""Item tables: free, from text, in the text's null space, hashed."""

import pytest
import torch
from student_samples import N, vectors

from students.item_table import ItemTable, item_tables


def test_item_tables_start_at_the_principal_components():
    text = torch.randn(N, 3, generator=torch.Generator().manual_seed(0)) @ torch.randn(3, 10)
    made = ItemTable(N, 5, text)
    table = made().detach()
    assert table.shape == (N, 5)
    assert table.norm(dim=1).mean() == pytest.approx(1.0, abs=1e-4)
    centred = text - text.mean(0)
    gram = centred @ centred.T
    assert torch.allclose(table @ table.T * (gram.trace() / (table @ table.T).trace()), gram, atol=1e-3)
    assert not made.identity.any(), "the id part starts at zero"


@pytest.mark.parametrize("made", [ItemTable(N, 5), ItemTable(N, 5, vectors(), "none")])
def test_without_text_it_is_free_rows(made):
    assert made().shape == (N, 5) and made.text is None
    assert list(made.state_dict()) == ["identity"]


@pytest.mark.parametrize("use", ["init", "null_space"])
def test_an_item_table_wider_than_its_text(use):
    assert torch.isfinite(ItemTable(N, 40, vectors(6), use)()).all()
    assert ItemTable(4, 8, vectors(6)[:4], use)().shape == (4, 8)


def test_null_space_ids_never_change_what_the_text_says():
    made = ItemTable(N, 8, vectors(10), "null_space")
    before = made().detach()
    optimiser = torch.optim.Adam(made.parameters(), lr=0.1)
    target = torch.randn(N, 8, generator=torch.Generator().manual_seed(1))
    for _ in range(20):
        optimiser.zero_grad()
        (made() - target).square().sum().backward()
        optimiser.step()
    after = made().detach()
    assert torch.equal(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4:], before[:, 4:])
    text = vectors(10) - vectors(10).mean(0)
    _, _, directions = torch.linalg.svd(text, full_matrices=False)
    gram = (text @ directions[:4].T) @ (text @ directions[:4].T).T
    assert torch.allclose(after[:, :4] @ after[:, :4].T * (gram.trace() / after[:, :4].square().sum()), gram, atol=1e-3)


def test_null_space_text_is_saved_with_the_weights():
    made = ItemTable(N, 8, vectors(), "null_space")
    other = ItemTable(N, 8, -vectors(), "null_space")  # as a machine with other signs would make it
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(), made())


def test_hashed_items_share_rows_and_seldom_both():
    n_items, buckets = 2_000, 200
    torch.manual_seed(0)
    made = ItemTable(n_items, 4, buckets=buckets)
    assert made.identity.shape == (buckets, 4)
    table = made()
    assert table.shape == (n_items, 4)
    assert len(torch.unique(table.detach(), dim=0)) > 0.9 * n_items
    used = torch.bincount(made.bucket.flatten(), minlength=buckets)
    assert used.min() > 0 and used.max() < 4 * used.float().mean()
    assert torch.equal(ItemTable(n_items, 4, buckets=buckets).bucket, made.bucket)
    assert table.detach().norm(dim=1).mean() == pytest.approx(
        ItemTable(n_items, 4)().detach().norm(dim=1).mean().item(), rel=0.2
    )


def test_hashed_ids_beside_text():
    made = ItemTable(N, 5, vectors(), buckets=3)
    assert torch.equal(made().detach(), ItemTable(N, 5, vectors())().detach()), "ids start at zero"
    made().sum().backward()
    assert made.identity.grad.shape == (3, 5) and made.identity.grad.any()


def test_tied_tables_are_one():
    inputs, outputs = item_tables(N, 4, None, "init", 0, tied=True)
    assert inputs is outputs
    inputs, outputs = item_tables(N, 4, None, "init", 0, tied=False)
    assert inputs is not outputs
