"""The dataset's own split wins, and what it holds out is never trained on."""

import json
from pathlib import Path

import pytest

from arguments.messages import Messages, UserError
from scene.splits import Names, Split, choose_split

VIEWS = tuple(f"v{index:02d}.jpg" for index in range(20))


def split(
    source: Path,
    views: tuple[str, ...] = VIEWS,
    hold_out: bool = False,
    known: tuple[str, ...] = (),
) -> Split:
    return choose_split(source, Names(views, known), hold_out, Messages(quiet=True))


def test_every_eighth_view_is_held_out_on_request(tmp_path: Path) -> None:
    chosen = split(tmp_path, hold_out=True)
    assert chosen.test == ("v00.jpg", "v08.jpg", "v16.jpg")
    assert len(chosen.train) == 17


def test_all_views_train_without_request(tmp_path: Path) -> None:
    assert split(tmp_path).train == VIEWS


@pytest.mark.parametrize("hold_out", [False, True])
@pytest.mark.parametrize(
    "files", [("train_list.txt", "test_list.txt"), ("splits/train.txt", "splits/test.txt")]
)
def test_lists_are_honoured_with_and_without_request(
    files: tuple[str, str], hold_out: bool, tmp_path: Path
) -> None:
    (tmp_path / "splits").mkdir()
    (tmp_path / files[0]).write_text("v01.jpg\r\nv02.jpg\n\n# comment\n")
    (tmp_path / files[1]).write_text("v00\nimages/v05.jpg")
    chosen = split(tmp_path, hold_out=hold_out)
    assert chosen.train == ("v01.jpg", "v02.jpg")
    assert chosen.test == ("v00.jpg", "v05.jpg")


def test_a_lone_test_list_leaves_the_rest_to_training(tmp_path: Path) -> None:
    (tmp_path / "test_list.txt").write_text("v03.jpg\n")
    chosen = split(tmp_path)
    assert chosen.test == ("v03.jpg",)
    assert len(chosen.train) == 19


def test_a_listed_photo_without_pose_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "train_list.txt").write_text("v00.jpg\nlost.jpg\n")
    (tmp_path / "test_list.txt").write_text("v01.jpg\n")
    assert split(tmp_path, known=("lost.jpg",)).train == ("v00.jpg",)


def test_on_the_go_lists_index_the_sorted_names(tmp_path: Path) -> None:
    frames = [{"file_path": f"images/{name}"} for name in reversed(VIEWS)]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    lists = {"clutter": [1, 2, 3], "extra": [0, 19], "clean": [4]}
    (tmp_path / "split.json").write_text(json.dumps(lists))
    chosen = split(tmp_path)
    assert chosen.train == ("v01.jpg", "v02.jpg", "v03.jpg")
    assert chosen.test == ("v00.jpg", "v19.jpg")


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ('{"clutter": [99], "extra": []}', "index 99"),
        ('{"clutter": [true, "a"], "extra": []}', "index"),
        ('{"clutter": 3}', "no list 'clutter'"),
        ("[", "not valid JSON"),
        ("[]", "expected an object"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_split_file_is_refused(lists: str, says: str, tmp_path: Path) -> None:
    frames = [{"file_path": f"images/{name}"} for name in VIEWS]
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": frames}))
    (tmp_path / "split.json").write_text(lists)
    with pytest.raises(UserError, match=says):
        split(tmp_path)


def test_robustnerf_names_split_themselves(tmp_path: Path) -> None:
    views = ("0clean.png", "1clutter.png", "2clutter.png", "3extra.png")
    chosen = split(tmp_path, views)
    assert chosen.train == ("1clutter.png", "2clutter.png")
    assert chosen.test == ("3extra.png",)


def test_one_word_that_two_photos_share_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "train_list.txt").write_text("a.jpg\n")
    with pytest.raises(UserError, match=r"first: 'a.jpg'"):
        split(tmp_path, ("left/a.jpg", "right/a.jpg"))
