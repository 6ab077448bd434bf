"""Every instruction set computes the same, up to rounding; a wrong name is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diff_gaussian_rasterization import (
    activate,
    adam_step_,
    instruction_set,
    photometric_loss,
    rasterization,
)
from torch import Tensor

from tests.conftest import ROOT
from tests.ops.scenes import make_scene


def results() -> dict[str, Tensor]:
    """A little of every operator, with gradients."""
    scene = make_scene(60, sh_degree=2, cameras=2).to(torch.float32)
    render = rasterization(*scene.arguments, sh_degree=2, depth="accumulated", absgrad=True)
    target = torch.full_like(render.color, 0.5)
    loss = photometric_loss(render.color, target) + 1e-3 * render.depth.sum()
    loss.backward()
    active = activate(scene.scales.detach().log(), scene.opacities.detach(), scene.scales[:, 0])
    params, means, squares = (torch.ones(1000) for _ in range(3))
    adam_step_([params], [torch.linspace(-1, 1, 1000)], [means], [squares], [0.1], 3)
    return {
        "color": render.color.detach(),
        "depth": render.depth.detach(),
        "loss": loss.detach(),
        "means": scene.means.grad,
        "quats": scene.quats.grad,
        "scales": scene.scales.grad,
        "opacities": scene.opacities.grad,
        "colors": scene.colors.grad,
        "means2d": render.means2d.grad,
        "absgrad": render.absgrad.grad,
        "active scales": active.scales.detach(),
        "active opacities": active.opacities.detach(),
        "params": params,
    }


def _run(isa: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TWINSPLAT_ISA": isa, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("isa", ["generic", "sse42", "avx2", "avx512"])
def test_an_instruction_set_changes_rounding_only(isa: str, tmp_path: Path) -> None:
    path = tmp_path / "results.pt"
    done = _run(
        isa,
        "import torch; from tests.ops.test_instruction_sets import results, instruction_set\n"
        f"assert instruction_set() == {isa!r}; torch.save(results(), {str(path)!r})",
    )
    if "this machine runs" in done.stderr:
        pytest.skip(f"this machine does not run {isa}")
    assert done.returncode == 0, done.stderr
    theirs = torch.load(path, weights_only=True)
    ours = results()
    apart = {n: float((theirs[n] - t).norm() / t.norm()) for n, t in ours.items()}
    assert not {name: error for name, error in apart.items() if not error < 1e-4}


def test_an_unknown_instruction_set_is_refused_by_name() -> None:
    code = "import diff_gaussian_rasterization as d; d.instruction_set()"
    done = _run("avx9", code)
    assert done.returncode != 0
    assert "TWINSPLAT_ISA=avx9" in done.stderr
    assert "generic" in done.stderr


def test_the_instruction_set_has_a_name() -> None:
    assert instruction_set() in ("avx512", "avx2", "sse42", "generic")
