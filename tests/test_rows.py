"""Tables of rows and row-wise Adam, against torch's Adam and by hand."""

import torch
from torch import nn

from cryomorph.rows import RowAdam, RowTable


def test_a_row_follows_torch_adam_through_the_steps_it_takes_part_in():
    torch.manual_seed(0)
    table = nn.Embedding(5, 3, sparse=True)
    dense = [nn.Parameter(row.detach().clone()) for row in table.weight]
    rows_of_steps = [[0, 1], [1, 4], [0, 1, 2], [4], [1]]
    ours = RowAdam([table.weight], lr=0.05)
    theirs = [torch.optim.Adam([row], lr=0.05) for row in dense]
    for step, rows in enumerate(rows_of_steps):
        ours.zero_grad()
        index = torch.tensor(rows)
        ((table(index) - step).square().sum(-1) * (index + 1)).sum().backward()
        ours.step()
        for row in rows:
            theirs[row].zero_grad()
            ((dense[row] - step).square().sum() * (row + 1)).backward()
            theirs[row].step()
    torch.testing.assert_close(table.weight, torch.stack(dense))


def test_absent_rows_do_not_move():
    table = nn.Embedding(4, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = RowAdam([table.weight], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([2])).square().sum().backward()
        optimizer.step()
    changed = (table.weight != before).any(1)
    assert changed.tolist() == [False, False, True, False]


def test_a_row_twice_in_a_batch_takes_one_step_with_the_summed_gradient():
    first, second = nn.Embedding(2, 2, sparse=True), nn.Embedding(2, 2, sparse=True)
    second.load_state_dict(first.state_dict())
    for table, index, factor in ((first, [0, 0], 1.0), (second, [0], 2.0)):
        (factor * table(torch.tensor(index)).square().sum()).backward()
        RowAdam([table.weight], lr=0.1).step()
    torch.testing.assert_close(first.weight, second.weight)


def moved(rows):
    """A table of 5 rows after one step of some of them, and its optimiser."""
    table = RowTable(5, 2)
    optimizer = table.optimizer(0.1)
    table(torch.tensor(rows)).square().sum().backward()
    optimizer.step()
    return table, optimizer


def test_rows_and_their_moments_are_gathered_from_their_owners():
    torch.manual_seed(0)
    (mine, mine_optimizer), (theirs, their_optimizer) = moved([0, 2]), moved([1, 3])
    owned = torch.tensor([True, False, True, False, True])
    expected = torch.where(owned[:, None], mine.weight, theirs.weight).detach()
    others = iter([theirs.weight * ~owned[:, None], *(s * ~owned[:, None] for s in state_of(theirs, their_optimizer))])
    mine.gather(mine_optimizer, owned, lambda tensor: tensor.add_(next(others)))
    assert torch.equal(mine.weight, expected)
    assert mine_optimizer.state[mine.weight]["steps"].flatten().tolist() == [1, 1, 1, 1, 0]
    assert (mine_optimizer.state[mine.weight]["first"][:4] != 0).all()


def state_of(table, optimizer):
    return optimizer.state[table.weight].values()


def test_rows_that_start_again_forget_how_they_moved():
    table, optimizer = moved([0, 2])
    before = [tensor.clone() for tensor in (table.weight.detach(), *state_of(table, optimizer))]
    table.restart(optimizer, torch.tensor([2, 4]))
    for old, new in zip(before, (table.weight, *state_of(table, optimizer)), strict=True):
        assert (new[[2, 4]] == 0).all()
        assert torch.equal(new[[0, 1, 3]], old[[0, 1, 3]])
    other, unused = RowTable(5, 2), RowTable(5, 2).optimizer(0.1)
    other.restart(unused, torch.tensor([1]))
    assert (other.weight[1] == 0).all()
