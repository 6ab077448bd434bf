"""DINOv2: the official layout, and features that cover an image."""

import hashlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from arguments.messages import ExitCode, UserError
from masks import dino_features
from masks.dino import DinoV2, whole_patches
from masks.dino_features import (
    DinoFeatures,
    DinoKind,
    KnownPhotos,
    dino_hint,
    load_dino,
    make_extractor,
    token_size,
)
from masks.features import (
    PHOTO_MEAN,
    PHOTO_STD,
    FeatureExtractor,
    PatchFilterBank,
    PhotoMemory,
    feature_residual,
    residual_of_vectors,
)
from tests.random_weights import fill_randomly


@pytest.fixture(scope="module")
def network() -> DinoV2:
    network = DinoV2()
    fill_randomly(network)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(network: DinoV2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "dinov2_vits14_reg4_pretrain.pth"
    torch.save(network.state_dict(), path)
    return path


def picture(height: int = 45, width: int = 60) -> torch.Tensor:
    return torch.rand(1, height, width, 3, generator=torch.Generator().manual_seed(0))


def test_the_layout_is_that_of_the_official_file(network: DinoV2) -> None:
    # timm 1.0.31 takes this state dict as the official one, key for key, and gives equal tokens.
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    lines = "\n".join(f"{name} {shapes[name]}" for name in sorted(shapes))
    assert len(shapes) == 176
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "193e4e7e26b1f1f3"


def test_tokens_equal_a_plain_writing_of_the_equations(network: DinoV2) -> None:
    image = torch.randn(1, 3, 518, 518, generator=torch.Generator().manual_seed(1))
    state = network.state_dict()
    patches = F.conv2d(
        image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14
    )
    tokens = torch.cat([state["cls_token"], patches.flatten(2).transpose(1, 2)], dim=1)
    tokens = tokens + state["pos_embed"]
    tokens = torch.cat([tokens[:, :1], state["register_tokens"], tokens[:, 1:]], dim=1)[0]
    with torch.no_grad():
        for number in range(12):
            start = f"blocks.{number}."
            get = {n.removeprefix(start): t for n, t in state.items() if n.startswith(start)}
            x = F.layer_norm(tokens, (384,), get["norm1.weight"], get["norm1.bias"], 1e-6)
            qkv = x @ get["attn.qkv.weight"].T + get["attn.qkv.bias"]
            heads = []
            for head in range(6):
                first = range(head * 64, 3 * 384, 384)
                q, k, v = (qkv[:, at : at + 64] for at in first)
                heads.append((q @ k.T / 8.0).softmax(dim=1) @ v)
            x = torch.cat(heads, dim=1) @ get["attn.proj.weight"].T + get["attn.proj.bias"]
            tokens = tokens + x * get["ls1.gamma"]
            x = F.layer_norm(tokens, (384,), get["norm2.weight"], get["norm2.bias"], 1e-6)
            x = F.gelu(x @ get["mlp.fc1.weight"].T + get["mlp.fc1.bias"])
            x = x @ get["mlp.fc2.weight"].T + get["mlp.fc2.bias"]
            tokens = tokens + x * get["ls2.gamma"]
        expected = F.layer_norm(tokens, (384,), state["norm.weight"], state["norm.bias"], 1e-6)
        got = network(image)
    assert got.shape == (1, 37, 37, 384)
    assert torch.allclose(got.reshape(-1, 384), expected[5:], atol=1e-4)


def test_the_embedding_is_the_paper_s_linear_map_of_normalised_patches(network: DinoV2) -> None:
    image = picture(28, 41)
    features = DinoFeatures(network, "embedding")(image)
    assert features.shape == (1, 3, 3, 384)  # strictly above each side: 42 x 42
    planes = ((image - torch.tensor(PHOTO_MEAN)) / torch.tensor(PHOTO_STD)).permute(0, 3, 1, 2)
    stretched = F.interpolate(planes, (42, 42), mode="nearest")
    conv = network.patch_embed.proj
    first = (conv.weight * stretched[:, :, :14, 14:28]).sum(dim=(1, 2, 3)) + conv.bias
    assert torch.allclose(features[0, 0, 1], first, atol=1e-4)
    assert (whole_patches(28), whole_patches(41)) == (42, 42)


@pytest.mark.parametrize("kind", ["embedding", "tokens"])
def test_it_serves_as_a_feature_extractor(network: DinoV2, kind: str) -> None:
    extractor = DinoFeatures(network, kind)  # type: ignore[arg-type]
    assert isinstance(extractor, FeatureExtractor)
    image = picture()
    assert feature_residual([image], image, extractor).max() < 1e-5
    changed = image.clone()
    changed[:, :20, :20] = 1 - changed[:, :20, :20]
    residual = feature_residual([changed], image, extractor)
    assert residual.shape == (1, 45, 60)
    assert residual[:, :10, :10].mean() > 2 * residual[:, 35:, 45:].mean()


def test_filters_are_taken_where_nothing_else_is_asked_for() -> None:
    extractor = make_extractor("filters", None, torch.device("cpu"))
    assert isinstance(extractor, PatchFilterBank)


def test_positions_are_stretched_once_for_each_grid(network: DinoV2) -> None:
    image = torch.randn(1, 3, 42, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        first, again = network(image), network(image)
    assert torch.equal(first, again)
    assert sum(key[:2] == (3, 4) for key in network._stretched) == 1


def test_large_images_are_reduced_before_the_network_sees_them() -> None:
    assert token_size(45, 60) == (42, 56)
    assert token_size(1000, 2000) == (252, 504)
    assert token_size(3, 5) == (14, 14)


@pytest.mark.parametrize("kind", ["embedding", "tokens"])
def test_a_photo_goes_through_the_network_once_and_its_residual_stays_the_same(
    network: DinoV2, kind: DinoKind
) -> None:
    extractor = DinoFeatures(network, kind)
    assert isinstance(extractor, PhotoMemory)
    photos = (255 * torch.cat([picture(), 1 - picture(), picture().flip(2)])).byte()
    rows = torch.tensor([2, 1])
    pair = photos[rows]
    colors = [pair.flip(0) / 255, pair / 255]
    expected = extractor.residual(colors, pair, rows)
    seen = []
    extractor.remember(photos)
    handle = network.patch_embed.register_forward_pre_hook(lambda _, x: seen.append(len(x[0])))
    first, again = (extractor.residual(colors, pair, rows) for _ in range(2))
    handle.remove()
    assert seen == [1, 1, 4, 4]
    assert torch.equal(first, again)
    assert torch.allclose(first, expected, atol=2e-3)
    assert torch.allclose(first, residual_of_vectors(colors, pair, extractor), atol=2e-3)


def test_photos_whose_features_would_take_too_much_are_not_remembered(
    network: DinoV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = DinoFeatures(network, "embedding")
    photos = (255 * torch.cat([picture(), 1 - picture()])).byte()
    size = KnownPhotos(photos, extractor).num_bytes
    monkeypatch.setattr(dino_features, "MOST_KEPT", 2 * size - 1)
    extractor.remember(photos)
    extractor.remember(photos[:, 1:])
    assert list(extractor._known) == [(45, 60)]
    lower = photos[:, 1:]
    residual = extractor.residual([lower / 255], lower, torch.tensor([0, 1]))
    assert residual.max() < 1e-5


def test_official_weights_load_and_missing_ones_are_named(
    checkpoint: Path, network: DinoV2, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = make_extractor("embedding", checkpoint, torch.device("cpu"))
    expected = DinoFeatures(network, "embedding")(picture())
    assert torch.equal(extractor(picture()), expected)
    monkeypatch.setenv("TWINSPLAT_WEIGHTS", str(checkpoint.parent))
    assert str(checkpoint) in dino_hint()
    load_dino(None, "tokens", torch.device("cpu"))
    monkeypatch.setenv("TWINSPLAT_WEIGHTS", str(checkpoint.parent / "none"))
    monkeypatch.setenv("TORCH_HOME", str(checkpoint.parent / "none"))
    assert "zero-download default" in dino_hint()
    with pytest.raises(UserError, match="dinov2_vits14_reg4_pretrain") as refusal:
        load_dino(None, "tokens", torch.device("cpu"))
    assert refusal.value.code == ExitCode.ENVIRONMENT
