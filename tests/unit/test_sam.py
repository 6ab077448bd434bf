"""Segment Anything: official layouts, and our generator against an obvious slow one."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kornia.models.sam import Sam, SamConfig
from scipy import ndimage
from torch import nn

from arguments.cli import parse
from arguments.messages import ExitCode, Messages, UserError
from masks.__main__ import MaskArguments
from masks.boxes import best_boxes, boxes_of
from masks.imported import ImportSettings
from masks.sam import (
    NETWORKS,
    RELEASES,
    Embedding,
    SamKind,
    SegmentAnything,
    build_sam,
    input_size,
)
from masks.sam_generator import (
    GridSettings,
    Window,
    find_masks,
    is_cut_off,
    point_grid,
    stability,
    windows,
    without_small_regions,
)
from masks.sam_segments import SamSegmenter, SamSettings, remembered
from masks.segmenter import Photo, Surroundings
from masks.segments import SegmentSettings, make_segmenter
from masks.static_evidence import StaticEvidence
from masks.weights import read_weights
from tests.random_weights import fill_randomly, spread_answers

# SHA-256 of the sorted lines "name shape" of the state dicts that segment-anything 1.0 and
# MobileSAM build, computed with those packages: what the official files hold.
LAYOUTS: dict[SamKind, tuple[int, str]] = {
    "sam_vit_b": (314, "2a326f8855d290e0"),
    "sam_vit_l": (482, "872b3a587ece72dc"),
    "sam_vit_h": (594, "903f3a74ff76f5c2"),
    "mobile_sam": (439, "d794ba6abcfafd91"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_model_has_the_layout_of_the_official_file(kind: SamKind) -> None:
    with torch.device("cpu" if kind == "mobile_sam" else "meta"):  # tiny ones need real numbers
        state = NETWORKS["kornia"](kind).state_dict()
    lines = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(state.items()))
    assert (len(state), hashlib.sha256(lines.encode()).hexdigest()[:16]) == LAYOUTS[kind]


def small_network() -> nn.Module:
    """SAM with a tiny encoder; everything behind it is as in the official models."""
    network = Sam.from_config(
        SamConfig(
            encoder_embed_dim=16,
            encoder_depth=1,
            encoder_num_heads=2,
            encoder_global_attn_indexes=(),
        )
    )
    fill_randomly(network)
    return network.eval()


def some_photo(height: int = 60, width: int = 90) -> np.ndarray:
    """Smooth coloured waves, so that no two places look alike."""
    y, x = np.mgrid[:height, :width] / 10.0
    waves = [np.sin(x + 0.3 * y * y / 6), np.cos(y - x / 3), np.sin(x * y / 9)]
    return (127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> SegmentAnything:
    model = SegmentAnything(small_network(), torch.device("cpu"))  # type: ignore[arg-type]
    spread_answers(model, some_photo())
    return model


def slow_masks(
    model: SegmentAnything, image: np.ndarray, grid: GridSettings
) -> list[tuple[np.ndarray, float]]:
    """Without crops and clean-up: point by point, mask by mask, at full size."""
    height, width = image.shape[:2]
    embedding = model.encode(image)
    found = []
    for row in range(grid.points_per_side):
        for column in range(grid.points_per_side):
            x = (column + 0.5) / grid.points_per_side * width
            y = (row + 0.5) / grid.points_per_side * height
            logits, promised = model.decode(embedding, torch.tensor([[x, y]]).double())
            for level in grid.levels:
                large = model.enlarge(embedding, logits[:, level])[0].numpy()
                score = promised[0, level].item()
                low = (large > -grid.stability_offset).sum()
                high = (large > grid.stability_offset).sum()
                if score > grid.min_iou and low and high / low >= grid.min_stability:
                    found.append((large > 0, score))
    found.sort(key=lambda one: -one[1])
    kept: list[tuple[np.ndarray, float]] = []
    for mask, score in found:
        if all(slow_box_iou(mask, other) <= grid.max_box_iou for other, _ in kept):
            kept.append((mask, score))
    return kept


def slow_box_iou(first: np.ndarray, second: np.ndarray) -> float:
    spans = []
    for mask in (first, second):
        rows, columns = np.nonzero(mask)
        spans.append((rows.min(), rows.max(), columns.min(), columns.max()))
    (t1, b1, l1, r1), (t2, b2, l2, r2) = spans
    common = max(0, min(b1, b2) - max(t1, t2)) * max(0, min(r1, r2) - max(l1, l2))
    either = (b1 - t1) * (r1 - l1) + (b2 - t2) * (r2 - l2) - common
    return common / either if either else 0.0


@pytest.mark.slow
def test_the_generator_finds_what_an_obvious_slow_one_finds(model: SegmentAnything) -> None:
    grid = GridSettings(4, 5, (0, 1, 2), 0.69, 0.6, max_box_iou=0.97, min_region=0)
    expected = slow_masks(model, some_photo(), grid)
    found = find_masks(model, some_photo(), grid)
    assert len(expected) >= 5
    assert len(found.masks) == len(expected)
    for mask, score, (slow, slow_score) in zip(found.masks, found.iou, expected, strict=True):
        assert score.item() == pytest.approx(slow_score, abs=1e-4)
        assert (mask & slow).sum() / (mask | slow).sum() > 0.999


@pytest.mark.slow
def test_masks_do_not_depend_on_the_batch(model: SegmentAnything) -> None:
    few, many = (
        find_masks(model, some_photo(), GridSettings(3, size, (1, 2), 0.7, 0.6, max_box_iou=0.97))
        for size in (2, 9)
    )
    assert len(few.masks) == len(many.masks) > 0
    assert (few.masks != many.masks).mean() < 1e-3


@pytest.mark.slow
def test_masks_of_crops_lie_where_the_crop_lies_and_are_not_cut_off_by_it(
    model: SegmentAnything,
) -> None:
    image = some_photo(120, 180)
    grid = GridSettings(2, 4, (0, 1, 2), 0.5, 0.3, max_box_iou=0.9, crop_layers=1, min_region=0)
    found = find_masks(model, image, grid)
    assert len(found.masks)
    assert torch.equal(found.boxes, boxes_of(torch.from_numpy(found.masks)).float())
    for window in windows(120, 180, grid)[1:]:
        assert window.size == (80, 110)  # halves that overlap by 40


def test_masks_that_end_at_a_crop_s_inner_side_are_cut_off() -> None:
    window = Window(left=100, top=0, right=300, bottom=200, layer=1)  # of a photo of 400 x 200
    boxes = torch.tensor(
        [
            [50, 50, 120, 120],  # well inside
            [19, 50, 120, 120],  # close to the left side of the crop
            [50, 50, 185, 120],  # close to its right side
            [50, 0, 120, 199],  # its upper and lower sides are those of the photo
        ]
    )
    assert is_cut_off(boxes, window, 200, 400).tolist() == [False, True, True, False]
    assert not is_cut_off(boxes, Window(0, 0, 400, 200, 0), 200, 400).any()


def test_stability_is_the_iou_of_a_mask_with_itself_at_two_thresholds() -> None:
    logits = torch.tensor([[[-3.0, -0.5, 0.5, 3.0]], [[-3.0, -3.0, 3.0, 3.0]], [[-3.0] * 4]])
    assert stability(logits, 1.0).tolist() == pytest.approx([1 / 3, 1.0, 0.0])


def test_each_layer_of_crops_covers_the_photo() -> None:
    grid = GridSettings(crop_layers=2)
    found = windows(150, 210, grid)
    assert [window.layer for window in found] == [0] + [1] * 4 + [2] * 16
    for layer in (0, 1, 2):
        covered = np.zeros((150, 210), dtype=bool)
        for window in (w for w in found if w.layer == layer):
            assert 0 <= window.left < window.right <= 210
            covered[window.top : window.bottom, window.left : window.right] = True
        assert covered.all()


def test_points_lie_in_the_middle_of_equal_cells() -> None:
    assert point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_photos_are_brought_to_1024_pixels() -> None:
    assert input_size((533, 800)) == (682, 1024)
    assert input_size((3000, 2000)) == (1024, 683)
    assert input_size((1, 5000)) == (1, 1024)


def naive_best(boxes: np.ndarray, scores: np.ndarray, max_iou: float) -> list[int]:
    """Non-maximum suppression, pair by pair."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        area = (boxes[i, 2] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1])
        for j in kept:
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            common = max(w, 0) * max(h, 0)
            other = (boxes[j, 2] - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1])
            if area + other - common > 0 and common / (area + other - common) > max_iou:
                break
        else:
            kept.append(i)
    return kept


@settings(deadline=None)
@given(st.integers(0, 1000), st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_the_best_of_overlapping_boxes_stay(seed: int, count: int, max_iou: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, 20, (count, 2))
    boxes = np.concatenate([corner, corner + rng.integers(0, 12, (count, 2))], axis=1)
    scores = rng.integers(0, 5, count) / 4.0
    kept = best_boxes(
        torch.from_numpy(boxes.astype(np.float32)),
        torch.from_numpy(scores.astype(np.float32)),
        max_iou,
    )
    assert kept.tolist() == naive_best(boxes, scores, max_iou)


def test_boxes_end_at_the_last_pixel_and_are_zero_around_nothing() -> None:
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2:5, 3:7] = True
    masks[1, 5, 0] = True
    assert boxes_of(masks).tolist() == [[3, 2, 6, 4], [0, 5, 0, 5], [0, 0, 0, 0]]


def test_small_holes_and_islands_go_and_large_ones_stay() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[2:12, 2:12] = True
    mask[4, 4] = False  # a hole of 1
    mask[6:9, 6:9] = False  # a hole of 9
    mask[15, 15] = mask[16, 16] = True  # an island of 2, which touch at a corner
    clean, touched = without_small_regions(mask, 5)
    assert touched
    assert clean[4, 4]
    assert not clean[7, 7]
    assert not clean[15, 15]
    assert ndimage.label(clean)[1] == 1
    same, touched = without_small_regions(clean, 5)
    assert not touched
    assert (same == clean).all()


def test_the_largest_island_stays_where_all_are_small() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[1, 1:4] = mask[7, 7] = True
    clean, _ = without_small_regions(mask, 50)
    # The background is no small hole, and three pixels are more than one.
    assert clean[1, 1:4].all()
    assert clean.sum() == 3


class Limited(nn.Module):
    """A device whose memory ends at `most` prompts at a time."""

    def __init__(self, decoder: nn.Module, most: int) -> None:
        super().__init__()
        self.decoder, self.most = decoder, most

    def forward(self, **given: object) -> object:
        if len(given["sparse_prompt_embeddings"]) > self.most:  # type: ignore[arg-type]
            raise torch.OutOfMemoryError
        return self.decoder(**given)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in MobileSAM's layout with random values."""
    network = NETWORKS["kornia"]("mobile_sam")
    fill_randomly(network)
    path = tmp_path_factory.mktemp("weights") / "mobile_sam.pt"
    torch.save(network.state_dict(), path)
    return path


def photo_of(image: np.ndarray) -> Photo:
    nothing = np.zeros(image.shape[:2], dtype=np.float32)
    return Photo("a.jpg", image, StaticEvidence(nothing, nothing))


def test_a_file_of_the_official_layout_loads_key_for_key(checkpoint: Path) -> None:
    weights = read_weights(checkpoint, RELEASES["mobile_sam"])
    model = build_sam("mobile_sam", "kornia", weights, torch.device("cpu"))
    state = model.network.state_dict()  # type: ignore[attr-defined]
    assert len(state) == 439
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.tensors.items())


def test_weights_of_another_model_are_refused_in_one_line(checkpoint: Path) -> None:
    settings = SegmentSettings("sam_vit_b", sam=SamSettings(checkpoint=checkpoint))
    with pytest.raises(UserError, match=r"is not sam_vit_b_01ec64\.pth: it lacks") as refusal:
        make_segmenter(settings, Surroundings([], checkpoint.parent, Messages(quiet=True)))
    assert refusal.value.code == ExitCode.ENVIRONMENT


@pytest.mark.slow
def test_fewer_points_then_smaller_photos_are_asked_as_memory_ends(
    checkpoint: Path, tmp_path: Path
) -> None:
    asked = SamSettings(
        checkpoint, points_per_side=2, points_per_batch=4, min_iou=0.0, min_stability=0.0
    )
    messages = Messages(quiet=True)
    segmenter = SamSegmenter("mobile_sam", asked, tmp_path, messages)
    expected = segmenter(photo_of(some_photo()))
    network = segmenter._model.network
    identity = segmenter.identity("a.jpg")
    network.mask_decoder = Limited(network.mask_decoder, 1)
    assert np.array_equal(segmenter(photo_of(some_photo())), expected)
    assert ["2 points" in messages.notes[0], "1 points" in messages.notes[1]] == [True, True]
    assert segmenter.identity("a.jpg") == identity
    network.mask_decoder.most = 0
    with pytest.raises(UserError, match="one point at a time at 1/4 of its size; free") as refusal:
        segmenter(photo_of(some_photo()))
    assert refusal.value.code == ExitCode.MEMORY
    assert ["from 1/2 of" in messages.notes[2], "from 1/4 of" in messages.notes[3]] == [True, True]


class Narrow(SegmentAnything):
    """A device whose memory ends at masks of a photo of more than 50 pixels a side."""

    def enlarge(self, embedding: Embedding, logits: torch.Tensor) -> torch.Tensor:
        if max(embedding.photo_size) > 50:
            torch.empty(1 << 60, dtype=torch.uint8)  # the allocator's own words
        return super().enlarge(embedding, logits)


@pytest.mark.slow
def test_photo_that_memory_does_not_suffice_for_is_segmented_smaller_and_said(
    checkpoint: Path, tmp_path: Path
) -> None:
    asked = SamSettings(
        checkpoint, points_per_side=2, points_per_batch=1, min_iou=0.0, min_stability=0.0
    )
    messages = Messages(quiet=True)
    segmenter = SamSegmenter("mobile_sam", asked, tmp_path, messages)
    usual = segmenter(photo_of(some_photo()))
    segmenter._model = Narrow(segmenter._model.network, torch.device("cpu"))
    layers = segmenter(photo_of(some_photo()))  # 90 x 60, by half
    assert layers.shape[1:] == usual.shape[1:] == (60, 90)
    assert layers.max() > 0
    assert (layers[:, ::2, ::2] == layers[:, 1::2, 1::2]).all()
    segmenter(photo_of(some_photo(40, 50)))
    assert [note.split(": ")[1] for note in messages.notes] == [
        "its segments come from 1/2 of its size"
    ]


@pytest.mark.slow
def test_other_failures_are_not_taken_for_a_lack_of_memory(
    checkpoint: Path, tmp_path: Path
) -> None:
    segmenter = SamSegmenter("mobile_sam", SamSettings(checkpoint), tmp_path, Messages(quiet=True))
    segmenter._model.network.image_encoder.register_forward_pre_hook(fail_otherwise)
    with pytest.raises(RuntimeError, match="shapes differ"):
        segmenter(photo_of(some_photo()))


def fail_otherwise(*_: object) -> None:
    """What torch raises for a bug."""
    raise RuntimeError("shapes differ")


@pytest.mark.slow
def test_kept_embeddings_are_read_back_and_broken_ones_made_again(
    model: SegmentAnything, tmp_path: Path
) -> None:
    image = some_photo()
    first = remembered(model, image, tmp_path, "weights")
    (path,) = tmp_path.iterdir()
    made = path.stat().st_mtime_ns
    again = remembered(model, image, tmp_path, "weights")
    assert torch.equal(again.features, first.features)
    assert (again.photo_size, again.input_size) == (first.photo_size, first.input_size)
    assert path.stat().st_mtime_ns == made
    path.write_bytes(path.read_bytes()[:999])
    assert torch.equal(remembered(model, image, tmp_path, "weights").features, first.features)
    assert path.stat().st_size > 999
    remembered(model, image, tmp_path, "other weights")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--sam-levels 3", "sam-levels"),
        ("--points-per-side 0", "points_per_side"),
        ("--crop-layers 9", "crop_layers"),
        ("--sam-backend other", "sam-backend"),
    ],
)
def test_impossible_settings_are_usage_errors(words: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as refusal:
        parse(MaskArguments, ["-s", "x", *words.split()], prog="python -m masks", description="")
    assert refusal.value.code == ExitCode.USAGE


@pytest.mark.parametrize(
    "asked",
    [
        SegmentSettings("graph", sam=SamSettings(checkpoint=Path("x.pt"))),
        SegmentSettings("graph", imported=ImportSettings(Path("x"))),
        SegmentSettings("imported"),
    ],
)
def test_flags_of_another_kind_are_refused(asked: SegmentSettings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--") as refusal:
        make_segmenter(asked, Surroundings(["a.jpg"], tmp_path, Messages(quiet=True)))
    assert refusal.value.code == ExitCode.USAGE
