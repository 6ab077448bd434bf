"""The benchmark compares like with like: its baseline draws what the reference draws."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from diff_gaussian_rasterization import rasterization

from gaussian_renderer import reference
from scripts import torch_tiles, workload
from scripts.bench_rasterizer import Options, Row, work_through, write_csv


def test_the_baseline_equals_the_reference() -> None:
    work = workload.make(300, 40, 30)
    splats = (work.means, work.quats, work.scales, work.opacities, work.sh)
    leaves = [t.double().requires_grad_() for t in splats]
    viewmat, K = work.viewmat.double(), work.K.double()
    tiles = torch_tiles.render(*leaves, viewmat, K, 40, 30, sh_degree=3)
    exact = reference.rasterization(*leaves, viewmat[None], K[None], 40, 30, sh_degree=3).color[0]
    torch.testing.assert_close(tiles, exact, rtol=1e-9, atol=1e-9)
    ours = torch.autograd.grad(tiles, leaves, work.grad.double())
    theirs = torch.autograd.grad(exact, leaves, work.grad.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_the_op_draws_the_workload_as_the_baseline_does() -> None:
    work = workload.make(3000, 120, 90)
    splats = (work.means, work.quats, work.scales, work.opacities, work.sh)
    tiles = torch_tiles.render(*splats, work.viewmat, work.K, 120, 90, sh_degree=3)
    viewmats, Ks = work.viewmat[None], work.K[None]
    ours = rasterization(*splats, viewmats, Ks, 120, 90, sh_degree=3).color[0]
    # A few pixels lie so near to a threshold that float32 decides them either way.
    assert (ours - tiles).abs().mean() < 1e-6
    assert (ours - tiles).abs().max() < 1e-2


def test_a_workload_is_the_same_every_time() -> None:
    first, second = workload.make(500, 32, 24), workload.make(500, 32, 24)
    assert torch.equal(first.means, second.means)
    assert torch.equal(first.grad, second.grad)
    assert len(first.means) == 500


def test_splats_lie_flat_on_their_surfaces() -> None:
    work = workload.make(4000, 32, 24)
    rotation = reference.rotation_matrices(work.quats.double())
    is_floor = work.means[:, 2].abs() < 1e-6
    assert is_floor.sum() > 1000
    torch.testing.assert_close(rotation[is_floor, 2, 2], torch.ones(int(is_floor.sum())).double())


def test_external_workloads_are_read_from_code_and_from_files(tmp_path: Path) -> None:
    work = workload.make(50, 32, 24)
    path = tmp_path / "work.npz"
    names = ("means", "quats", "scales", "opacities", "sh", "viewmat", "K", "grad")
    arrays = {name: getattr(work, name).numpy() for name in names}
    np.savez(path, width=32, height=24, **arrays)
    assert torch.equal(workload.load(path).sh, work.sh)
    code = tmp_path / "other.py"
    code.write_text(
        "import numpy as np\n"
        "def make(scene, n, width, height):\n"
        f"    return dict(np.load({str(path)!r}))\n"
    )
    assert torch.equal(workload.from_generator(code, "any", 50, 32, 24).means, work.means)


def test_results_are_appended_with_their_context(tmp_path: Path) -> None:
    row = Row("rasterization", 50_000, "400x300", 3, "avx2", 2, 10.0, 25.0, 48.0, 9, 900.0, 2500.0)
    path = tmp_path / "results" / "bench.csv"
    for date in ("2026-01-01", "2026-01-02"):
        write_csv(path, [row], {"date": date})
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["date"] for line in lines] == ["2026-01-01", "2026-01-02"]
    assert {line["ratio"] for line in lines} == {"100.0"}


@pytest.mark.parametrize("baselines", [False, True])
def test_a_small_benchmark_runs(baselines: bool) -> None:
    options = Options(counts=(200,), sizes=("32x24",), repeats=2, threads=1, baselines=baselines)
    rows = work_through(options)
    assert {row.op.split()[0] for row in rows} == {
        "rasterization",
        "photometric_loss",
        "activate",
        "adam",
    }
    assert all(row.both > 0 for row in rows)
    assert all((row.ratio > 0) == baselines for row in rows)
