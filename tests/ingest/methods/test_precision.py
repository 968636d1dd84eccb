"""What float16 does to values."""

import pytest
import torch

from ingest.methods.precision import Kept, levels, lost_in_float16, seems_lost

RANDOM = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RANDOM, None),
        (RANDOM * 60000, None),
        (RANDOM * 1e-3, None),
        (RANDOM * 140000, "overflow"),
        (-RANDOM * 140000, "overflow"),
        (RANDOM.where(RANDOM < 0.5, torch.nan), None),
        (torch.full((4, 2), torch.nan), None),
        (torch.tensor([[0.0], [1.0], [2e-8]]), "underflow"),
        (torch.tensor([[0.0], [1.0], [-2e-8]]), "underflow"),
        (torch.tensor([[0.0], [1.0], [1e-7]]), None),
        (1000 + RANDOM, "lost order"),  # float16 has steps of 0.5 there
        (1000 + 100 * RANDOM, None),
        (torch.full((50, 3), 1000.1), None),  # it does not differ
        (1000.1 + 0.001 * RANDOM, None),  # nor more than float32's rounding in a network
        (1e-7 + 2e-7 * RANDOM, "lost order"),
        (torch.cat([RANDOM, 1000 + RANDOM], dim=1), "lost order"),  # one neuron is enough
    ],
)
def test_overflow_underflow_and_lost_order(values, expected):
    assert lost_in_float16(values) == expected
    kept = Kept(levels(values.shape[1]))
    for some in values.split(3):  # as they come in
        kept.update(some)
    assert kept.lost() == expected
    if expected is None and bool(values.isfinite().all()):
        stored = values.half().float()
        assert ((stored == 0) == (values == 0)).all()


def test_a_single_position_may_hardly_move():
    values = 1000 + 2 * RANDOM  # on 4 steps
    assert (lost_in_float16(values), lost_in_float16(values, positions=True)) == ("lost order", None)


@pytest.mark.parametrize(("values", "lost"), [(RANDOM, False), (RANDOM * 1e-9, False), (1000 + RANDOM * 3, True), (RANDOM**12, True)])
def test_what_was_stored_before_shows_what_may_be_lost(values, lost):
    assert seems_lost(values.half()) == lost
