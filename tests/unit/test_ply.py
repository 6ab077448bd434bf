"""Splats survive INRIA's layout, and no hostile header is believed."""

import io
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch

from arguments.messages import ExitCode, Messages, UserError
from scene.ply import ROWS_AT_A_TIME, Splats, ply_parts, read_ply, write_ply


def random_splats(num_rest: int = 15, count: int = 20) -> Splats:
    generator = torch.Generator().manual_seed(0)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, 1, 3), (count, num_rest, 3)]
    return Splats(*(torch.randn(*shape, generator=generator) for shape in shapes))


def assert_same(one: Splats, other: Splats) -> None:
    for field in fields(Splats):
        assert torch.equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("num_rest", [0, 3, 8, 15])
def test_what_is_written_is_read(num_rest: int, tmp_path: Path) -> None:
    splats = random_splats(num_rest)
    assert write_ply(tmp_path / "a.ply", splats) == 0
    assert_same(read_ply(tmp_path / "a.ply"), splats)
    assert [path.name for path in tmp_path.iterdir()] == ["a.ply"]


def test_rows_are_written_some_at_a_time_and_none_is_lost_between(tmp_path: Path) -> None:
    splats = random_splats(0, count=2 * ROWS_AT_A_TIME + 3)
    splats.quats[ROWS_AT_A_TIME] = 0
    largest = max(len(part) for part in ply_parts(splats, 2 * ROWS_AT_A_TIME + 2))
    assert largest == ROWS_AT_A_TIME * 17 * 4
    assert write_ply(tmp_path / "a.ply", splats) == 1
    left = torch.arange(len(splats.means)) != ROWS_AT_A_TIME
    expected = Splats(**{f.name: getattr(splats, f.name)[left] for f in fields(Splats)})
    assert_same(read_ply(tmp_path / "a.ply"), expected)


def endless_splats(count: int) -> Splats:
    """So many splats in the memory of one."""
    one = random_splats(15, count=1)
    return Splats(
        **{f.name: (t := getattr(one, f.name)).expand(count, *t.shape[1:]) for f in fields(Splats)}
    )


def test_more_rows_than_readers_can_count_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2147483648 Gaussians, readers count to 2147483647"):
        write_ply(tmp_path / "a.ply", endless_splats(2**31))
    assert list(tmp_path.iterdir()) == []


def test_file_that_memory_cannot_hold_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path, rows = tmp_path / "a.ply", 2**32
    header = next(ply_parts(random_splats(), rows))
    with path.open("wb") as stream:
        stream.write(header)
        stream.truncate(len(header) + rows * 62 * 4)  # a hole of 1 TB
    with pytest.raises(UserError, match=r"a\.ply takes 2130\.3 GB, [\d.]+ GB of memory are") as no:
        read_ply(path)
    assert no.value.code == ExitCode.MEMORY


def test_the_columns_are_those_of_inria(tmp_path: Path) -> None:
    splats = random_splats()
    write_ply(tmp_path / "a.ply", splats)
    table = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"].data
    assert table.dtype.names[:9] == ("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2")
    assert table.dtype.names[54:] == (
        *("opacity", "scale_0", "scale_1", "scale_2"),
        *("rot_0", "rot_1", "rot_2", "rot_3"),
    )
    np.testing.assert_array_equal(table["f_rest_1"], splats.shN[:, 1, 0])  # all of red first
    np.testing.assert_array_equal(table["f_rest_15"], splats.shN[:, 0, 1])


@pytest.mark.parametrize(("text", "order"), [(True, "="), (False, ">")])
def test_ascii_and_big_endian_are_read(text: bool, order: str, tmp_path: Path) -> None:
    splats = random_splats(3)
    write_ply(tmp_path / "a.ply", splats)
    element = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    plyfile.PlyData([element], text=text, byte_order=order).write(tmp_path / "b.ply")
    assert_same(read_ply(tmp_path / "b.ply"), splats)


def test_rows_that_no_viewer_can_draw_are_not_exported(tmp_path: Path) -> None:
    splats = random_splats()
    splats.means[3, 1] = torch.nan
    splats.log_scales[4, 0] = -torch.inf
    splats.quats[5] = 0
    assert write_ply(tmp_path / "a.ply", splats) == 3
    assert len(read_ply(tmp_path / "a.ply").means) == 17


def test_nothing_to_export_leaves_the_old_file(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats())
    before = (tmp_path / "a.ply").read_bytes()
    broken = replace(random_splats(), means=torch.full((20, 3), torch.nan))
    with pytest.raises(UserError, match="nothing to export") as caught:
        write_ply(tmp_path / "a.ply", broken)
    assert caught.value.code == ExitCode.NUMERICAL
    assert (tmp_path / "a.ply").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_a_file_system_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write") as caught:
        write_ply(tmp_path / "absent" / "a.ply", random_splats())
    assert caught.value.code == ExitCode.FILE_SYSTEM


HEAD = "ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (HEAD + "element vertex 10000000000000000000\nproperty float x\n", "ends inside row 1 of"),
        (HEAD + "element vertex -1\nproperty float x\n", "means nothing"),
        (HEAD + "element vertex 5\nproperty list uint uint x\n", "ends inside row 1 of 5"),
        (HEAD + "element vertex 1\n" + "property float a\n" * 1100, "more than 1024"),
        (HEAD + "property float x\n", "means nothing"),
        (HEAD + "element vertex 1\nproperty quad x\n", "means nothing"),
        ("ply\nformat ascii 1.0\nelement vertex 10000000000\nproperty float x\n", "ends inside"),
        ("ply\nformat zip 1.0\nelement vertex 1\nproperty float x\n", "no PLY format"),
        ("ply\n" + "comment " + "a" * 70_000 + "\n", "no 'end_header'"),
        ("version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        ("solid stl\n", "not a PLY"),
    ],
)
def test_a_hostile_header_is_refused(header: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(header.encode() + b"end_header\n" + bytes(4))
    with pytest.raises(UserError, match=says) as caught:
        read_ply(tmp_path / "a.ply")
    assert caught.value.code == ExitCode.BAD_INPUT


def test_a_truncated_file_names_its_row_and_trailing_bytes_are_reported(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", random_splats())
    whole = (tmp_path / "a.ply").read_bytes()
    for size in range(0, len(whole), 211):
        (tmp_path / "b.ply").write_bytes(whole[:size])
        with pytest.raises(UserError):
            read_ply(tmp_path / "b.ply")
    (tmp_path / "b.ply").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="ends inside row 19 of 20"):
        read_ply(tmp_path / "b.ply")
    (tmp_path / "b.ply").write_bytes(whole + b"12")
    messages = Messages(quiet=True)
    read_ply(tmp_path / "b.ply", messages)
    assert "2 trailing bytes" in messages.warnings[0]


def with_columns(path: Path, **columns: np.ndarray) -> None:
    """Write a file of these columns only."""
    table = np.zeros(len(next(iter(columns.values()))), [(name, "<f4") for name in columns])
    for name, values in columns.items():
        table[name] = values
    stream = io.BytesIO()
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")], byte_order="<").write(stream)
    path.write_bytes(stream.getvalue())


def columns_of(splats: Splats, tmp_path: Path) -> dict[str, np.ndarray]:
    write_ply(tmp_path / "c.ply", splats)
    table = plyfile.PlyData.read(tmp_path / "c.ply")["vertex"].data
    return {name: np.array(table[name]) for name in table.dtype.names}


def test_an_odd_number_of_coefficients_is_refused(tmp_path: Path) -> None:
    columns = columns_of(random_splats(3), tmp_path)
    del columns["f_rest_8"]
    with_columns(tmp_path / "a.ply", **columns)
    with pytest.raises(UserError, match="has 8 f_rest values a row, expected one of 0, 9, 24, 45"):
        read_ply(tmp_path / "a.ply")


def test_activated_values_are_pointed_out(tmp_path: Path) -> None:
    splats = random_splats()
    activated = replace(
        splats, opacity_logits=splats.opacity_logits.sigmoid(), log_scales=splats.log_scales.exp()
    )
    write_ply(tmp_path / "a.ply", activated)
    messages = Messages(quiet=True)
    read_ply(tmp_path / "a.ply", messages)
    assert "looks already activated" in messages.warnings[0]


def test_a_point_cloud_is_told_from_splats(tmp_path: Path) -> None:
    zero = np.zeros(3)
    with_columns(tmp_path / "a.ply", x=zero, y=zero, z=zero, red=zero, green=zero, blue=zero)
    says = (
        r"has x,y,z,rgb only: a point cloud, not a splat file \(missing opacity, scale_0 \.\.\.\)"
    )
    with pytest.raises(UserError, match=says):
        read_ply(tmp_path / "a.ply")


def test_files_of_other_tools_are_refused_by_name(shared_data: Path) -> None:
    fixtures = shared_data / "peer_fixtures"
    for name, says in (
        ("inria_input.ply", "point cloud"),
        ("lfs_pointer_point_cloud.ply", "git lfs pull"),
        ("playcanvas/guitar.compressed.ply", "no splat file in INRIA's layout"),
    ):
        with pytest.raises(UserError, match=says):
            read_ply(fixtures / name)
