"""Row edits: every tensor with a row per Gaussian follows one map."""

import torch

from gaussian_renderer import render_image
from scene.cameras import Cameras
from scene.gaussians import Gaussians, joined, select_rows, side_by_side
from training.branches import ProxyBranch
from training.optimizers import Follower, GaussianAdam, LearningRates
from training.rows import EditPlan, RowMap, edited, morton_order, rotation_matrices


def some_gaussians(count: int, generator: torch.Generator) -> Gaussians:
    """Gaussians with nothing in common."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(count, *shape, generator=generator)

    return Gaussians(draw(3), draw(4), draw(3) - 2, draw(), draw(1, 3), draw(15, 3), draw().abs())


def a_plan() -> EditPlan:
    """Of five rows: kept, cloned, split, removed, kept."""
    return EditPlan(
        keep=torch.tensor([True, True, False, False, True]),
        clone=torch.tensor([False, True, False, False, False]),
        split=torch.tensor([False, False, True, False, False]),
    )


def test_rows_come_as_kept_then_clones_then_children() -> None:
    rows = a_plan().row_map()
    assert rows.source.tolist() == [0, 1, 4, 1, 2, 2]
    assert rows.children == slice(4, 6)


def test_kept_rows_keep_their_moments_and_new_rows_start_from_zero(
    generator: torch.Generator,
) -> None:
    gaussians = some_gaussians(5, generator)
    adam = GaussianAdam(gaussians)
    before = {name: torch.randn(m.shape, generator=generator) for name, m in adam.exp_avg.items()}
    adam.exp_avg |= {name: m.clone() for name, m in before.items()}
    adam.follow(a_plan().row_map())
    for name, moment in adam.exp_avg.items():
        assert torch.equal(moment[:3], before[name][[0, 1, 4]])
        assert not moment[3:].any()


def test_parameters_moments_and_proxy_keep_equal_length(generator: torch.Generator) -> None:
    gaussians = some_gaussians(5, generator)
    adam = GaussianAdam(gaussians)
    proxy = ProxyBranch("p", some_gaussians(5, generator), 0.8)
    rows = a_plan().row_map()
    after = edited(gaussians, rows, torch.Generator().manual_seed(0))
    adam.follow(rows)
    proxy.follow(rows, after)
    lengths = {len(t) for _, t in (*after.tensors(), *proxy.gaussians.tensors())}
    assert lengths | {len(m) for m in adam.tensors().values()} == {6}


def test_clones_equal_their_parent_and_children_are_smaller(generator: torch.Generator) -> None:
    gaussians = some_gaussians(5, generator)
    after = edited(gaussians, a_plan().row_map(), torch.Generator().manual_seed(0))
    for name, tensor in gaussians.tensors():
        assert torch.equal(getattr(after, name)[3], tensor[1])
    shrink = (gaussians.log_scales[2] - after.log_scales[4:]).exp()
    torch.testing.assert_close(shrink, torch.full_like(shrink, 1.6))
    assert not torch.equal(after.means[4], after.means[5])


def test_children_are_spread_like_their_parent(generator: torch.Generator) -> None:
    parent = some_gaussians(1, generator)
    many = parent.map(lambda t: t.expand(4000, *t.shape[1:]).clone())
    everyone = torch.ones(4000, dtype=torch.bool)
    plan = EditPlan(keep=~everyone, clone=~everyone, split=everyone)
    after = edited(many, plan.row_map(), torch.Generator().manual_seed(0))
    rotation = rotation_matrices(parent.quats)[0]
    expected = rotation @ (2 * parent.log_scales[0]).exp().diag() @ rotation.T
    measured = (after.means - parent.means[0]).T.cov()
    torch.testing.assert_close(measured, expected, rtol=0.1, atol=float(expected.abs().max()) * 0.1)


def test_proxy_children_take_the_live_geometry_and_their_own_colour(
    generator: torch.Generator,
) -> None:
    live, mine = some_gaussians(5, generator), some_gaussians(5, generator)
    proxy = ProxyBranch("p", mine, 0.8)
    rows = a_plan().row_map()
    after = edited(live, rows, torch.Generator().manual_seed(0))
    proxy.follow(rows, after)
    assert torch.equal(proxy.gaussians.means[4:], after.means[4:])
    assert torch.equal(proxy.gaussians.means[:4], mine.means[[0, 1, 4, 1]])
    assert torch.equal(proxy.gaussians.sh0, mine.sh0[rows.source])


def test_proxy_moves_by_its_decay_in_the_space_of_the_parameters(
    generator: torch.Generator,
) -> None:
    live, mine = some_gaussians(5, generator).requires_grad_(), some_gaussians(5, generator)
    for _, parameter in live.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    average = mine.map(torch.clone)
    rates = LearningRates(1.0, 1.0, 1.0, 1.0, 1.0, 1.0).at_update(1)
    GaussianAdam(live).step(live, rates, follower=Follower(average, 0.8))
    for name, tensor in mine.parameters():
        moved = 0.8 * tensor + 0.2 * getattr(live, name).detach()
        torch.testing.assert_close(getattr(average, name), moved)


def test_morton_order_puts_neighbours_side_by_side() -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0], [1, 0, 0]])
    assert morton_order(corners).tolist() == [0, 5, 4, 3, 2, 1]
    near = torch.cat([corners, corners + 1e-5])[torch.randperm(12)]
    order = near[morton_order(near)]
    assert (order[0::2] - order[1::2]).abs().max() < 1e-4
    assert morton_order(torch.zeros(3, 3)).tolist() == [0, 1, 2]


def test_order_of_the_rows_changes_no_picture(generator: torch.Generator) -> None:
    gaussians = some_gaussians(300, generator)
    gaussians.means[:, 2] += 6
    camera = Cameras(
        torch.eye(4)[None], torch.tensor([[[40.0, 0, 24], [0, 40, 16], [0, 0, 1]]]), 48, 32
    )
    rows = RowMap.reordering(morton_order(gaussians.means))
    assert rows.source.tolist() != list(range(300))
    before, after = (
        render_image(one, camera, torch.zeros(3))
        for one in (gaussians, select_rows(gaussians, rows.source))
    )
    assert before.std() > 0.01
    torch.testing.assert_close(after, before)


def test_sets_side_by_side_are_joined_without_a_copy(generator: torch.Generator) -> None:
    apart = [some_gaussians(n, generator) for n in (3, 4)]
    together = side_by_side(apart)
    expected = torch.cat([one.shN for one in apart])
    for sets in (apart, together):
        for one in sets:
            one.requires_grad_()
        whole = joined(sets).shN
        assert torch.equal(whole, expected)
        (whole * expected).sum().backward()
        assert all(
            torch.equal(g, t.shN) for g, t in zip((s.shN.grad for s in sets), sets, strict=True)
        )
    assert joined(together).shN.data_ptr() == together[0].shN.data_ptr()
    assert joined(apart).shN.data_ptr() != apart[0].shN.data_ptr()
