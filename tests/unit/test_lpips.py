"""LPIPS: official layouts, a distance, and never a number without its network's name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from arguments.messages import ExitCode, UserError
from evaluation.lpips import (
    BACKBONES,
    HEADS,
    NAMES,
    Heads,
    Lpips,
    Network,
    Stack,
    load_lpips,
    why_not,
)
from masks.weights import fill, read_weights
from tests.perceptual_weights import OFFICIAL, backbone, heads

NETWORKS: tuple[Network, ...] = ("alex", "vgg")


def random_lpips(network: Network, folder: Path) -> Lpips:
    """From files under other names, since random ones have not the official digests."""
    stack = Stack(network)
    parts = Heads(stack.tapped())
    content = {k: t for k, t in backbone(network).items() if k.startswith("features.")}
    for model, state, release in (
        (stack, content, BACKBONES[network]),
        (parts, heads(network), HEADS[network]),
    ):
        torch.save(state, folder / "random.pth")
        fill(model, read_weights(folder / "random.pth", release), release)
    return Lpips(network, stack, parts)


def pictures(height: int = 64, width: int = 70) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    both = torch.randint(0, 256, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    return both[0], both[1]


def slow_lpips(network: Network, picture: Tensor, photo: Tensor) -> float:
    """The definition, layer by layer, on the state dicts."""
    state, lines = backbone(network), heads(network)
    after_tap = {"alex": {0: 3, 3: 3}, "vgg": {2: 2, 7: 2, 14: 2, 21: 2}}[network]
    taps_at = {"alex": [0, 3, 6, 8, 10], "vgg": [2, 7, 14, 21, 28]}[network]
    shift, scale = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.45])
    features = []
    for image in (picture, photo):
        x = ((image.double() / 255 * 2 - 1 - shift) / scale).permute(2, 0, 1)[None]
        taps = []
        for place, _, _, side in OFFICIAL[network]:
            weight, bias = (state[f"features.{place}.{n}"].double() for n in ("weight", "bias"))
            stride, padding = (4, 2) if side == 11 else (1, side // 2)
            x = nn.functional.conv2d(x, weight, bias, stride, padding).clamp_min(0)
            if place in taps_at:
                taps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
            if place in after_tap:
                x = nn.functional.max_pool2d(x, after_tap[place], 2)
        features.append(taps)
    return sum(
        ((a - b).square() * lines[f"lin{i}.model.1.weight"].double()).sum(1).mean().item()
        for i, (a, b) in enumerate(zip(*features, strict=True))
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_it_equals_the_definition_on_random_official_files(
    network: Network, tmp_path: Path
) -> None:
    # The package lpips 0.1.4 gives the same numbers to 2e-8 on the same random files.
    lpips = random_lpips(network, tmp_path)
    first, second = pictures()
    assert lpips(first, second) == pytest.approx(slow_lpips(network, first, second), abs=1e-5)
    assert lpips(first, first) == 0
    assert lpips(first, second) == pytest.approx(lpips(second, first), abs=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_classifier_s_own_layers_are_left_out_and_others_missed(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for table in (BACKBONES, HEADS):  # random files cannot have the official digests
        release = table[network]
        named = type(release)(release.name, release.url)
        monkeypatch.setitem(table, network, named)
    torch.save(backbone(network), tmp_path / BACKBONES[network].name)
    assert HEADS[network].name in why_not(network, tmp_path)
    torch.save(heads(network), tmp_path / HEADS[network].name)
    assert why_not(network, tmp_path) == ""
    first, second = pictures()
    lpips = load_lpips(network, tmp_path, torch.device("cpu"))
    assert lpips(first, second) > 0
    state = backbone(network)
    del state["features.0.weight"]
    torch.save(state, tmp_path / BACKBONES[network].name)
    with pytest.raises(UserError, match=r"features\.0\.weight") as refusal:
        load_lpips(network, tmp_path, torch.device("cpu"))
    assert refusal.value.code == ExitCode.ENVIRONMENT


def test_files_with_official_names_must_have_official_digests(tmp_path: Path) -> None:
    torch.save(backbone("alex"), tmp_path / BACKBONES["alex"].name)
    with pytest.raises(UserError, match="7be5be79"):
        load_lpips("alex", tmp_path, torch.device("cpu"))


def test_pictures_too_small_for_the_network_are_refused(tmp_path: Path) -> None:
    lpips = random_lpips("alex", tmp_path)
    first, second = pictures(20, 70)
    with pytest.raises(ValueError, match="32 pixels"):
        lpips(first, second)


def test_the_two_networks_have_different_names() -> None:
    assert len(set(NAMES.values())) == 2
    assert all(name.startswith("LPIPS (") for name in NAMES.values())
