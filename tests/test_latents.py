"""Row-wise Adam, against torch's Adam and by hand."""

import torch
from torch import nn

from cryomorph.latents._rows import RowAdam


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
