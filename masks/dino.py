"""DINOv2 ViT-S/14 with registers as plain torch: tokens of patches of 14 pixels.

Oquab et al. 2023 (DINOv2); Darcet et al. 2023 (registers). Takes the official file of torch hub key
for key; knows nothing of masks.
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float
from torch import Tensor, nn

from masks.weights import Release

PATCH = 14  # pixels
WIDTH = 384
HEADS = 6
BLOCKS = 12
REGISTERS = 4
GRID = 37  # patches along each side of the 518 pixels that the positions were learned at

RELEASE = Release(
    "dinov2_vits14_reg4_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth",
)


class PatchEmbedding(nn.Module):
    """One linear map of each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)

    def forward(self, image: Float[Tensor, "C 3 H W"]) -> Float[Tensor, "C 384 h w"]:
        """Patches of images whose sides are multiples of 14."""
        return self.proj(image)


class Attention(nn.Module):
    """Every token looks at every other."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Float[Tensor, "C T 384"]) -> Float[Tensor, "C T 384"]:
        """What each token takes from the others."""
        count, length, _ = tokens.shape
        split = self.qkv(tokens).reshape(count, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(count, length, WIDTH))


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Float[Tensor, "C T 384"]) -> Float[Tensor, "C T 384"]:
        """Channel by channel."""
        return tokens * self.gamma


class Mlp(nn.Module):
    """Two layers on each token alone."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Float[Tensor, "C T 384"]) -> Float[Tensor, "C T 384"]:
        """Token by token."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class Block(nn.Module):
    """Attention, then the two layers; each adds to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(), Mlp()
        self.ls1, self.ls2 = Scale(), Scale()

    def forward(self, tokens: Float[Tensor, "C T 384"]) -> Float[Tensor, "C T 384"]:
        """One of the twelve steps."""
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        return tokens + self.ls2(self.mlp(self.norm2(tokens)))


class DinoV2(nn.Module):
    """The network; names of its parameters are those of the official file."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, WIDTH))
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))  # of its training; not used here
        self.patch_embed = PatchEmbedding()
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self._stretched: dict[tuple[int, int, torch.device], Tensor] = {}

    def forward(self, image: Float[Tensor, "C 3 H W"]) -> Float[Tensor, "C h w 384"]:
        """Normalised tokens of the patches of normalised images, sides multiples of 14."""
        patches = self.patch_embed(image)
        height, width = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2) + self._positions(height, width)
        first = self.cls_token + self.pos_embed[:, :1]
        extra = torch.cat([first, self.register_tokens], dim=1).expand(len(image), -1, -1)
        tokens = torch.cat([extra, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 1 + REGISTERS :].reshape(-1, height, width, WIDTH)

    def _positions(self, height: int, width: int) -> Float[Tensor, "1 P 384"]:
        """The learned positions, stretched to another grid, once for each."""
        key = (height, width, self.pos_embed.device)
        if key in self._stretched:
            return self._stretched[key]
        learned = self.pos_embed[:, 1:].reshape(1, GRID, GRID, WIDTH).permute(0, 3, 1, 2)
        if (height, width) != (GRID, GRID):
            learned = F.interpolate(
                learned, (height, width), mode="bicubic", antialias=True, align_corners=False
            )
        positions = learned.flatten(2).transpose(1, 2)
        if not positions.requires_grad:  # weights that no longer change
            self._stretched[key] = positions
        return positions


def whole_patches(side: int) -> int:
    """The next multiple of 14 above `side`, as the paper's release takes it."""
    return (math.floor(side / PATCH) + 1) * PATCH
