"""The GPU benchmark runs end to end on the CPU, and its sums are those that it says."""

import csv
import re
import time
from pathlib import Path

import pytest
import torch

from scripts import bench_gpu
from scripts.bench_gpu import (
    Options,
    Row,
    kernels,
    load,
    profiled,
    profiled_training,
    run,
    table,
    write_csv,
)
from scripts.engines import Ours
from scripts.floor import Size, Speed, floor, measure
from scripts.stopwatch import Share, clock, record, shares
from scripts.training_workload import FIRST_STEP, make_stepper
from scripts.workload import make

CPU = torch.device("cpu")


def test_a_small_benchmark_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results" / "bench_gpu.csv"
    monkeypatch.setattr(bench_gpu, "RESULTS", results)
    options = Options(
        workloads=("300@33x20", "200@16x16"),
        device="cpu",
        repeats=2,
        warmups=1,
        commit="abc",
        csv=True,
    )
    rows = run(options)
    named = [(row.count, row.engine, row.mode) for row in rows]
    first = [(300, "ours", "eager"), (300, "ours", "static")]
    assert named[:2] == first
    assert [n for n in named if n[1] == "training"] == [
        (300, "training", f"{method} {mode}")
        for method in ("dual", "ema")
        for mode in ("eager", "static")
    ]
    ours = [row for row in rows if row.engine == "ours"]
    assert len(ours) == 4
    for row in ours:
        assert 0 < row.forward < row.both
        assert 0 < row.floor_forward < row.floor_both < row.floor_step
        assert 0 < row.visible <= row.count
        assert row.pairs >= row.visible
    assert "not installed" in {row.mode for row in rows} or "has no CPU kernels" in {
        row.mode for row in rows
    }
    with results.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    assert {line["commit"] for line in lines} == {"abc"}
    assert {line["device"] for line in lines} == {"CPU"}
    assert {line["torch"] for line in lines} == {torch.__version__}
    assert "training" in capsys.readouterr().out


def test_a_recording_with_room_draws_the_exact_picture() -> None:
    work = make(300, 33, 20)
    exact = Ours(work, CPU)
    static = Ours(work, CPU, pair_capacity=exact.counts().pairs)
    assert torch.equal(exact.picture(), static.picture())
    assert exact.counts() == static.counts()


def test_steps_leave_the_workload_as_it_is() -> None:
    engine = Ours(make(300, 33, 20), CPU)
    before = torch.cat([leaf.detach().flatten() for leaf in engine.leaves])
    record(engine.step, CPU)()
    after = torch.cat([leaf.detach().flatten() for leaf in engine.leaves])
    assert 0 < (after - before).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["dual", "ema"])
@pytest.mark.parametrize("recorded", [False, True])
def test_the_trainer_goes_on_with_the_gaussians_of_the_workload(
    method: str, recorded: bool
) -> None:
    work = make(400, 40, 32)
    stepper, done = make_stepper(work, method, CPU, recorded=recorded)
    assert done == FIRST_STEP
    stats = stepper.advance(done + 2)
    names = {term.name.split("/")[0] for term in stats.terms}
    # ema uses its masks in turn, and the hard one learns nothing.
    assert names == {"color", "agreement"} | ({"mask"} if method == "dual" else set())
    # The photos show these very Gaussians: what is left is the trainer's own filter.
    assert float(stats.squared_error) < 0.01


def test_workloads_are_read_from_the_command_line(tmp_path: Path) -> None:
    scene, work = load("300@40x30", None)
    assert (scene, len(work.means), work.width, work.height) == ("synthetic", 300, 40, 30)
    code = tmp_path / "other.py"
    code.write_text(
        "from scripts import workload\n"
        "def make(scene, n, width, height):\n"
        "    assert scene == 'garden'\n"
        "    return {**vars(workload.make(n, width, height))}\n"
    )
    scene, other = load("garden:300@40x30", code)
    assert scene == "garden"
    assert torch.equal(other.means, work.means)


@pytest.mark.parametrize("text", ["300", "300@40", "x@40x30", "garden:40x30"])
def test_a_workload_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        load(text, None)


def test_the_floor_is_the_sum_of_its_stages() -> None:
    speed = Speed(bandwidth=1e12, instructions=1e13)
    found = floor(Size(gaussians=1000, visible=100, pairs=10, pixels=1), speed)
    forward = (16 * 1000 + (288 + 68) * 100 + 26 * 10) / 1e9
    forward += (14 * 71 * 10 + 12 * 35) / 1e10
    backward = (324 * 100 + 192 * 10) / 1e9 + 30 * (0.8 * 71 * 10 + 35) / 1e10
    assert found.forward == pytest.approx(forward)
    assert found.both == pytest.approx(forward + backward)
    assert found.step == pytest.approx(forward + backward + (170 + 6 * 236 * 100) / 1e9)


def test_a_device_has_a_speed() -> None:
    speed = measure(CPU)
    assert 1e8 < speed.bandwidth < 1e13
    assert 1e8 < speed.instructions < 1e13


def test_the_clock_takes_the_median_after_the_warm_ups() -> None:
    pauses = [0.05, 0.05, 0.0, 0.05, 0.0]  # two warm-ups, and one slow call that is not the median
    assert clock(lambda: time.sleep(pauses.pop(0)), CPU, repeats=3, warmups=2) < 40
    assert not pauses


def test_shares_say_what_a_call_spends_its_time_in() -> None:
    left = torch.rand(200, 200)
    found = shares(lambda: left @ left, CPU, calls=4)
    product = next(share for share in found if share.name == "aten::mm")
    assert product.launches == 1
    assert product.microseconds > 1
    assert found == sorted(found, key=lambda share: -share.microseconds)


def test_a_step_of_ours_can_be_profiled() -> None:
    options = Options(workloads=(), device="cpu")
    names = {share.name for share in profiled(make(300, 33, 20), options)}
    assert {"twinsplat_raster::blend_backward", "twinsplat_raster::adam_step_"} <= names


def test_a_step_of_the_trainer_can_be_profiled() -> None:
    options = Options(workloads=(), device="cpu")
    found = profiled_training(make(300, 33, 20), "ema", options)
    adam = next(share for share in found if share.name == "twinsplat_raster::adam_step_")
    assert 1 <= adam.launches < 3  # of a step: of the Gaussians, and of the soft mask in its turn


def test_tables_show_ratios_and_leave_out_what_was_not_timed() -> None:
    row = Row("garden", 1000, "40x30", "ours", "graph", 1.0, 2.0, 3.0, floor_step=1.5, step_ratio=2)
    missing = Row("garden", 1000, "40x30", "gsplat", "not installed")
    text = table([row, missing]).splitlines()
    assert row.times_floor == 2
    assert text[1].split() == [
        *("garden", "1,000", "40x30", "ours", "graph", "1.000", "2.000", "3.000"),
        *("2.00x", "1.500", "2.0x"),
    ]
    assert text[2].split() == ["garden", "1,000", "40x30", "gsplat", "not", "installed"]


def test_kernels_are_shown_by_their_share_of_the_time() -> None:
    text = kernels([Share("blend", 90.0, 1), Share("sort", 10.0, 4), Share("tiny", 0.001, 1)])
    assert re.search(r"90\.0% +90\.0 +1\.0  blend", text)
    assert re.search(r"10\.0% +10\.0 +4\.0  sort", text)
    assert "tiny" not in text


def test_results_are_appended_with_their_context(tmp_path: Path) -> None:
    path = tmp_path / "bench.csv"
    for commit in ("a", "b"):
        write_csv(path, [Row("garden", 1000, "40x30", "ours", "graph")], {"commit": commit})
    with path.open(newline="") as file:
        assert [line["commit"] for line in csv.DictReader(file)] == ["a", "b"]
