"""Which segments are taken out: what counting segment by segment finds, on every device."""

import pytest
import torch
from diff_gaussian_rasterization import SegmentRule, segment_trust
from torch import Tensor

from masks.candidates import Candidates
from masks.segment_bank import Residuals, SegmentBank

RULE = SegmentRule(least_feature=0.15, span=0.3, most_distrust=0.4)
SIZES = [(40, 53), (7, 300), (1, 1), (90, 64)]


def _candidates(height: int, width: int, seed: int) -> Candidates:
    """Three layers: large blocks, single pixels here and there, and nothing."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(height)[:, None] // 9, torch.arange(width) // 11
    blocks = 1 + rows * 30 + columns
    dots = torch.rand(height, width, generator=generator) < 0.2
    spread = torch.zeros(height, width, dtype=torch.int64)
    spread[dots] = 1 + torch.randint(0, 7, (int(dots.sum()),), generator=generator)
    return Candidates(torch.stack([blocks, spread, torch.zeros_like(spread)]).int())


def _residuals(count: int, height: int, width: int) -> Residuals:
    generator = torch.Generator().manual_seed(height)
    by_color = torch.rand(count, height, width, generator=generator)
    coarse = torch.rand(count, 1, -(-height // 9), -(-width // 11), generator=generator)
    by_feature = coarse.repeat_interleave(9, 2).repeat_interleave(11, 3)[:, 0, :height, :width]
    by_feature = 0.7 * by_feature + 0.1 * torch.rand(count, height, width, generator=generator)
    high = torch.linspace(0.4, 0.6, count).reshape(count, 1, 1)
    return Residuals(by_color, by_feature, high, high - 0.1, torch.full_like(high, 0.2))


def _one_by_one(candidates: Candidates, seen: Residuals, number: int) -> Tensor:
    """The slow, obvious way for one photo."""
    color, feature = seen.by_color[number].double(), seen.by_feature[number].double()
    is_high = (color > seen.high_color[number]) & (feature > seen.high_feature[number])
    distrust = ((feature - seen.usual[number]) / RULE.span).clamp(0, 1)
    trust = torch.ones(color.shape)
    for layer in candidates.labels:
        for label in layer.unique():
            inside = layer == label
            if label == 0:
                continue
            dense = is_high[inside].double().mean() > is_high.double().mean()
            differs = feature[inside].mean() > RULE.least_feature
            if (dense and differs) or distrust[inside].mean() > RULE.most_distrust:
                trust[inside] = 0
    return trust


def _on(device: torch.device, seen: Residuals) -> Residuals:
    return Residuals(*(value.to(device) for value in vars(seen).values()))


@pytest.mark.parametrize("size", SIZES)
def test_segments_are_taken_out_as_counting_each_of_them_says(
    size: tuple[int, int], device: torch.device
) -> None:
    found = [_candidates(*size, seed) for seed in range(3)]
    found.append(Candidates(torch.zeros(1, *size, dtype=torch.int32)))
    rows, seen = [2, 0, 3, 2], _residuals(4, *size)
    bank = SegmentBank.of(found, device)
    trust = bank.trust(torch.tensor(rows, device=device), _on(device, seen), RULE).cpu()
    for number, row in enumerate(rows):
        assert torch.equal(trust[number], _one_by_one(found[row], seen, number))
    assert (trust[2] == 1).all()
    if size[0] > 7:
        assert 0.1 < trust[0].mean() < 0.9


def test_ten_runs_give_the_same_bytes(cuda: torch.device) -> None:
    bank = SegmentBank.of([_candidates(300, 400, 1)], cuda)
    seen, rows = _on(cuda, _residuals(1, 300, 400)), torch.zeros(1, dtype=torch.int64, device=cuda)
    first = bank.trust(rows, seen, RULE)
    assert all(torch.equal(bank.trust(rows, seen, RULE), first) for _ in range(9))


@pytest.mark.parametrize("name", ["high_color", "rows", "segments", "areas"])
def test_tensors_of_other_sizes_are_refused(name: str, cuda: torch.device) -> None:
    bank, seen = SegmentBank.of([_candidates(9, 9, 1)], cuda), _on(cuda, _residuals(1, 9, 9))
    good = {
        "high_color": seen.high_color.flatten(),
        "high_feature": seen.high_feature.flatten(),
        "usual": seen.usual.flatten(),
        "rows": torch.zeros(1, dtype=torch.int64, device=cuda),
        "pixels": bank.pixels,
        "segments": bank.segments,
        "areas": bank.areas,
    }
    wrong = good | {name: good[name].cpu()}
    with pytest.raises(RuntimeError, match=name):
        segment_trust(seen.by_color, seen.by_feature, **wrong, rule=RULE)
