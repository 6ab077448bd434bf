"""Maskers: what they trust, what they learn, and what survives a checkpoint."""

import numpy as np
import pytest
import torch

from masks.candidates import Candidates
from masks.evidence import USUAL_RESIDUAL, Comparison, Evidence, quantiles
from masks.features import PatchFilterBank
from masks.files import combine
from masks.maskers import (
    CLEAR_EXCESS,
    Masker,
    MaskerKind,
    MaskerSettings,
    PhotoSet,
    build_masker,
    scale_of_the_best,
)
from masks.quality import mask_quality, proposal_quality
from masks.segment_bank import excess

HEIGHT, WIDTH = 70, 84  # whole patches
PHOTOS = [PhotoSet(WIDTH, HEIGHT, tuple(range(10)))]
BALL = (slice(14, 42), slice(28, 56))  # where the planted distractor is


@pytest.fixture(scope="module")
def scene() -> torch.Tensor:
    """A smooth static photo."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) / 40.0, torch.arange(WIDTH) / 40.0, indexing="ij")
    waves = torch.stack([torch.sin(3 * x + y), torch.cos(2 * y - x), torch.sin(x * y)], dim=-1)
    return (0.5 + 0.25 * waves)[None]


@pytest.fixture(scope="module")
def photo(scene: torch.Tensor) -> torch.Tensor:
    """The same photo with a distractor in it."""
    noise = torch.rand(28, 28, 3, generator=torch.Generator().manual_seed(1))
    photo = scene.clone()
    photo[0][BALL] = 0.3 * noise + torch.tensor([0.7, 0.0, 0.0])
    return photo


@pytest.fixture(scope="module")
def candidates() -> Candidates:
    """The distractor and a static block as candidates, in two overlapping layers."""
    labels = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.int32)
    labels[0][BALL] = 1
    labels[0, 45:60, 5:25] = 2
    labels[1, 14:28, 28:56] = 1
    return Candidates(labels)


def row(*rows: int) -> torch.Tensor:
    """Rows of photos as a step hands them to a masker."""
    return torch.tensor(rows)


def seen(color: torch.Tensor, image: torch.Tensor) -> Evidence:
    """A rendering held against its photo."""
    return Comparison([color], image, PatchFilterBank()).of(0)


def distrusted(residual: torch.Tensor) -> torch.Tensor:
    """The excess over each photo's median."""
    usual = quantiles([residual], [0.5])[0].clamp_min(USUAL_RESIDUAL)
    return excess(residual, usual, CLEAR_EXCESS)


def hard(candidates: Candidates, settings: MaskerSettings | None = None) -> Masker:
    return build_masker("hard", settings or MaskerSettings(), PHOTOS, lambda _: candidates)


@pytest.mark.parametrize("kind", ["none", "hard", "soft"])
def test_weights_lie_between_0_and_1(
    kind: MaskerKind, scene: torch.Tensor, photo: torch.Tensor, candidates: Candidates
) -> None:
    result = build_masker(kind, MaskerSettings(), PHOTOS, lambda _: candidates)(
        seen(scene, photo), row(0)
    )
    assert result.weight.shape == (1, HEIGHT, WIDTH)
    assert not result.weight.requires_grad
    assert result.weight.min() >= 0.0
    assert result.weight.max() <= 1.0


def test_a_planted_distractor_is_found_and_nothing_else(
    scene: torch.Tensor, photo: torch.Tensor, candidates: Candidates
) -> None:
    weight = hard(candidates)(seen(scene, photo), row(0)).weight[0]
    truth = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    truth[BALL] = True
    assert mask_quality(weight < 0.5, truth).iou == 1.0


def test_flipping_the_image_flips_the_mask(
    scene: torch.Tensor, photo: torch.Tensor, candidates: Candidates
) -> None:
    flipped = Candidates(candidates.labels.flip(2))
    straight = hard(candidates)(seen(scene, photo), row(0)).weight
    mirrored = hard(flipped)(seen(scene.flip(2), photo.flip(2)), row(0)).weight
    assert torch.equal(mirrored.flip(2), straight)


def test_without_candidates_everything_is_trusted(scene: torch.Tensor, photo: torch.Tensor) -> None:
    none = Candidates(torch.zeros(2, HEIGHT, WIDTH, dtype=torch.int32))
    assert (hard(none)(seen(scene, photo), row(0)).weight == 1).all()


def test_a_segment_that_is_no_candidate_stays_trusted_whatever_its_residual(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    elsewhere = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.int32)
    elsewhere[0, 60:, 60:] = 1
    weight = hard(Candidates(elsewhere))(seen(scene, photo), row(0)).weight[0]
    assert (weight[BALL] == 1).all()


def test_a_perfect_render_is_trusted_as_a_whole(
    photo: torch.Tensor, candidates: Candidates
) -> None:
    assert (hard(candidates)(seen(photo, photo), row(0)).weight == 1).all()


def test_a_photo_without_distractors_keeps_its_candidates(
    scene: torch.Tensor, candidates: Candidates
) -> None:
    render = scene.clone()
    render[0, 45:60, 5:25] += 0.02  # the largest error of the photo, and yet a small one
    assert (hard(candidates)(seen(render, scene), row(0)).weight == 1).all()
    paper = MaskerSettings(min_feature_residual=0.0)
    assert (hard(candidates, paper)(seen(render, scene), row(0)).weight == 0).any()


def test_a_clear_distractor_is_found_beside_a_larger_and_stronger_one(
    scene: torch.Tensor, candidates: Candidates
) -> None:
    photo = scene.clone()
    photo[0][BALL] = torch.tensor([1.0, 0.0, 1.0])
    photo[0, 42:70, 0:28] = torch.tensor([0.7, 0.1, 0.1])  # two patches by two, candidate 2 inside
    weight = hard(candidates)(seen(scene, photo), row(0)).weight[0]
    assert (weight[BALL] == 0).all()
    assert (weight[45:60, 5:25] == 0).all()
    paper = MaskerSettings(certain_excess=1.0)
    assert (hard(candidates, paper)(seen(scene, photo), row(0)).weight[0, 45:60, 5:25] == 1).all()


def test_dilation_grows_the_distractor_by_that_many_pixels(
    scene: torch.Tensor, photo: torch.Tensor, candidates: Candidates
) -> None:
    weight = hard(candidates, MaskerSettings(dilation=3))(seen(scene, photo), row(0)).weight[0]
    expected = torch.ones(HEIGHT, WIDTH)
    expected[11:45, 25:59] = 0
    assert torch.equal(weight, expected)


def test_candidates_of_another_size_are_refused(scene: torch.Tensor) -> None:
    wrong = Candidates(torch.ones(1, HEIGHT, WIDTH + 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="view 0"):
        hard(wrong)(seen(scene, scene), row(0))


def test_quantile_leaves_the_share_below_it() -> None:
    values = torch.arange(1000.0).reshape(1, 20, 50)
    low, high = quantiles([values, values], [0.1, 0.9])
    assert (values <= low).float().mean() == pytest.approx(0.1)
    assert (values <= high).float().mean() == pytest.approx(0.9)


def train_soft(masker: Masker, scene: torch.Tensor, photo: torch.Tensor, steps: int) -> None:
    for _ in range(steps):
        loss = masker(seen(scene, photo), row(3)).loss
        assert loss is not None
        loss.backward()
        masker.update()


def test_soft_masker_starts_trusting_and_learns_to_distrust_the_distractor(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    assert masker(seen(scene, photo), row(3)).weight.min() > 0.999
    train_soft(masker, scene, photo, 30)
    weight = masker(seen(scene, photo), row(3)).weight[0]
    assert weight[BALL].mean() < 0.5
    assert weight[50:].mean() > 0.9


def test_a_photo_in_another_light_is_not_distrusted_as_a_whole(scene: torch.Tensor) -> None:
    residual = torch.linspace(0.5, 0.7, 100).reshape(1, 10, 10)
    assert (distrusted(residual) == 0).float().mean() >= 0.5
    assert distrusted(residual + 0.1).allclose(distrusted(residual))


def test_a_clean_photo_stays_trusted_unless_it_is_stretched(scene: torch.Tensor) -> None:
    noise = 0.01 * torch.randn(scene.shape, generator=torch.Generator().manual_seed(2))
    evidence = seen(scene, scene + noise)
    assert (distrusted(evidence.by_feature) == 0).all()
    best = scale_of_the_best(evidence)
    assert excess(evidence.by_feature, best.low, best.span).max() == 1


def test_soft_masker_learns_nothing_about_a_photo_that_was_not_drawn(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    masker(seen(scene, photo), row(8))
    before = masker(seen(scene, photo), row(8)).weight
    masker.update()
    train_soft(masker, scene, photo, 2)
    assert torch.equal(masker(seen(scene, photo), row(8)).weight, before)
    assert masker.state()[f"rows/{WIDTH}x{HEIGHT}"].tolist() == [3]


def test_photos_are_judged_together_as_they_are_alone(
    scene: torch.Tensor, photo: torch.Tensor, candidates: Candidates
) -> None:
    others = Candidates(torch.cat([candidates.labels, candidates.labels.flip(2)]))
    sources = [candidates, others, Candidates(torch.zeros(1, HEIGHT, WIDTH, dtype=torch.int32))]
    photos = [PhotoSet(WIDTH, HEIGHT, (0, 1, 2))]
    masker = build_masker("hard", MaskerSettings(), photos, lambda i: sources[i])
    colors = torch.cat([scene, scene.flip(2), scene])
    images = torch.cat([photo, photo.flip(2), photo])
    together = masker(seen(colors, images), row(0, 1, 2)).weight
    for i in range(3):
        alone = masker(seen(colors[i : i + 1], images[i : i + 1]), row(i)).weight[0]
        assert torch.equal(together[i], alone)
    assert [bool((weight == 0).any()) for weight in together] == [True, True, False]


def test_renderings_are_compared_together_as_they_are_alone(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    colors, image = [torch.cat([scene, photo]), torch.cat([photo, scene])], torch.cat([photo] * 2)
    together = Comparison(colors, image, PatchFilterBank())
    for i, color in enumerate(colors):
        one, alone = together.of(i), seen(color, image)
        for shared, own in zip(one.thresholds(0.9, 0.8), alone.thresholds(0.9, 0.8), strict=True):
            torch.testing.assert_close(shared, own)
        for name in ("by_color", "by_feature", "usual"):
            torch.testing.assert_close(getattr(one, name), getattr(alone, name))
    assert not torch.equal(together.of(0).by_feature, together.of(1).by_feature)


def test_what_is_usual_does_not_depend_on_who_asks_first(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    first, second = (Comparison([scene, photo], photo, PatchFilterBank()) for _ in range(2))
    first.thresholds(1, 0.9, 0.8)
    assert torch.equal(first.usual, second.usual)


def test_soft_masks_of_two_photos_learn_together_as_they_do_alone(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    both = build_masker("soft", MaskerSettings(), PHOTOS)
    alone = build_masker("soft", MaskerSettings(), PHOTOS)
    colors, images = torch.cat([scene, photo]), torch.cat([photo, photo])
    for _ in range(3):
        loss = both(seen(colors, images), row(3, 8)).loss
        assert loss is not None
        (2 * loss).backward()
        both.update()
        for i in range(2):
            single = alone(seen(colors[i : i + 1], images[i : i + 1]), row((3, 8)[i])).loss
            assert single is not None
            single.backward()
        alone.update()
    for name, tensor in both.state().items():
        torch.testing.assert_close(alone.state()[name], tensor, msg=name)


def test_a_photo_that_was_drawn_twice_learns_once_from_both_gradients(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    loss = masker(seen(torch.cat([scene, photo]), torch.cat([photo, photo])), row(3, 3)).loss
    assert loss is not None
    loss.backward()
    masker.update()
    state = masker.state()
    assert state[f"num_updates/{WIDTH}x{HEIGHT}"].tolist() == [1]
    # The perfect render pulls up what the other pulls down: nothing moves but where both agree.
    assert float(state[f"exp_avg/{WIDTH}x{HEIGHT}"][0, 14:28, 28:42].abs().max()) < 1e-9


def test_frozen_soft_mask_keeps_all_that_it_has_learnt(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    train_soft(masker, scene, photo, 2)
    before = masker.state()
    loss = masker(seen(scene, photo), row(3)).loss
    assert loss is not None
    loss.backward()
    masker.update(torch.ones(1, dtype=torch.int32))
    assert all(torch.equal(tensor, masker.state()[name]) for name, tensor in before.items())


def test_soft_masker_takes_no_gradient_to_the_colors(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    color = scene.clone().requires_grad_()
    loss = build_masker("soft", MaskerSettings(), PHOTOS)(seen(color, photo), row(0)).loss
    assert loss is not None
    loss.backward()
    assert color.grad is None


def test_soft_masker_is_finite_when_photo_and_render_are_equal(photo: torch.Tensor) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    train_soft(masker, photo, photo, 3)
    assert masker(seen(photo, photo), row(3)).weight.isfinite().all()


def test_a_pixel_that_was_trusted_for_long_can_still_lose_its_trust(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    train_soft(masker, photo, photo, 60)
    train_soft(masker, scene, photo, 60)
    assert masker(seen(scene, photo), row(3)).weight[0][BALL].mean() < 0.5


def test_soft_masker_continues_bit_for_bit_from_its_state(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    straight = build_masker("soft", MaskerSettings(), PHOTOS)
    train_soft(straight, scene, photo, 5)
    resumed = build_masker("soft", MaskerSettings(), PHOTOS)
    resumed.load_state(straight.state())
    assert resumed.state().keys() == straight.state().keys()
    for masker in (straight, resumed):
        train_soft(masker, scene, photo, 5)
    assert straight.state().keys() == resumed.state().keys()
    for name, tensor in straight.state().items():
        assert torch.equal(tensor, resumed.state()[name]), name


def test_state_is_a_copy_that_training_does_not_change(
    scene: torch.Tensor, photo: torch.Tensor
) -> None:
    masker = build_masker("soft", MaskerSettings(), PHOTOS)
    train_soft(masker, scene, photo, 1)
    saved = masker.state()
    kept = {name: tensor.clone() for name, tensor in saved.items()}
    train_soft(masker, scene, photo, 2)
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


def test_the_hard_masker_is_refused_without_candidates() -> None:
    with pytest.raises(ValueError, match="candidates"):
        build_masker("hard", MaskerSettings(), PHOTOS)


@pytest.mark.parametrize(
    "bad",
    [{"quantile": 1.0}, {"feature_quantile": 0.0}, {"dilation": -1}, {"min_feature_residual": 2.5}],
)
def test_impossible_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        MaskerSettings(**bad)  # type: ignore[arg-type]


def test_a_user_mask_only_takes_trust_away() -> None:
    weight = torch.full((2, 4, 4), 0.5)
    keep = torch.ones(2, 4, 4, dtype=torch.bool)
    keep[0, :2] = False
    both = combine(weight, keep)
    assert (both[0, :2] == 0).all()
    assert (both[0, 2:] == 0.5).all()
    assert torch.equal(both[1], weight[1])
    assert combine(weight, None) is weight


def test_quality_of_an_empty_mask_against_an_empty_truth_is_perfect() -> None:
    empty = torch.zeros(4, 4, dtype=torch.bool)
    quality = mask_quality(empty, empty)
    assert (quality.iou, quality.recall, quality.precision) == (1.0, 1.0, 1.0)


def test_quality_counts_pixels() -> None:
    found, truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    found[:2] = True
    truth[1:3] = True
    quality = mask_quality(found, truth)
    assert (quality.iou, quality.recall, quality.precision) == (4 / 12, 0.5, 0.5)


def test_proposals_count_where_they_are_mostly_distractor() -> None:
    truth = torch.zeros(4, 4, dtype=torch.bool)
    truth[:2] = True
    labels = torch.from_numpy(np.repeat([[1], [2], [2], [2]], 4, axis=1))[None]
    quality = proposal_quality(labels.int(), truth)
    assert (quality.recall, quality.static_share) == (0.5, 1.0)
