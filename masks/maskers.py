"""Which pixels of a photo may teach, given what the model renders there now.

A masker gets renderings held against photos; it renders nothing and does not know how its weights
are used.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from diff_gaussian_rasterization import (
    SegmentRule,
    TrustBank,
    adam_step_,
    trust_loss,
    trust_step_,
)
from jaxtyping import Float, Float32, Int
from torch import Tensor

from masks.candidates import Candidates
from masks.evidence import Evidence
from masks.segment_bank import Residuals, SegmentBank, excess

MaskerKind = Literal["none", "hard", "soft"]
CandidateSource = Callable[[int], Candidates]


@dataclass(frozen=True)
class MaskerSettings:
    """How pixel trust is decided during training."""

    quantile: float = 0.90
    """Share of a photo's pixels whose colour residual is below the threshold; 0.95 with ema."""

    feature_quantile: float = 0.90
    """Share of a photo's pixels whose feature residual is below the threshold."""

    dilation: int = 0
    """Pixels by which the distractors of the hard mask grow."""

    min_feature_residual: float = 0.15
    """Mean feature residual that a segment must reach to be a distractor, so that photos without
    any keep their candidates; 0 is the paper's rule."""

    certain_excess: float = 0.4
    """Mean distrust (as by `excess`) that makes a segment a distractor even where larger
    residuals elsewhere take up the quantiles; 1 is the paper's rule."""

    soft_target: Literal["excess", "minmax"] = "excess"
    """What the soft mask learns: excess distrusts what differs clearly more than the photo's
    usual; minmax, the paper's, stretches every photo from full distrust to full trust."""

    learning_rate: float = 0.1
    """Step size of the soft mask's logits."""

    def __post_init__(self) -> None:
        """Refuse values that no masker can use."""
        for name, share in (
            ("quantile", self.quantile),
            ("feature_quantile", self.feature_quantile),
        ):
            if not 0.0 < share < 1.0:
                raise ValueError(f"{name} must lie between 0 and 1, got {share}")
        if not 0.0 <= self.min_feature_residual < 2.0:
            raise ValueError(
                f"min_feature_residual must lie in [0, 2), got {self.min_feature_residual}"
            )
        if self.dilation < 0:
            raise ValueError(f"dilation must be 0 or more pixels, got {self.dilation}")


def paper_rule(settings: MaskerSettings) -> MaskerSettings:
    """The same settings with the rules of arXiv 2506.03538 and nothing beyond them."""
    return replace(settings, min_feature_residual=0.0, certain_excess=1.0, soft_target="minmax")


@dataclass(frozen=True)
class PhotoSet:
    """The training photos of one size; a masker knows them by their row in here."""

    width: int
    height: int
    view_ids: tuple[int, ...]


@dataclass(frozen=True)
class MaskResult:
    """What a masker says about a batch of views.

    Attributes:
        weight: trust in [0, 1], detached; 1 = may teach, 0 = distractor.
        loss: what the masker's own parameters learn from, mean over pixels and views; None when it
            has none.
    """

    weight: Float[Tensor, "C H W"]
    loss: Float[Tensor, ""] | None = None


@runtime_checkable
class Masker(Protocol):
    """Judges the pixels of training views; may learn and then carries state.

    Nothing in a call or an update is read back from the device, so that both can be part of a CUDA
    graph; what is laid out once per photo size is made by the first call with photos of that size.
    """

    def __call__(
        self,
        seen: Evidence,
        rows: Int[Tensor, " C"],
    ) -> MaskResult:
        """Trust of each pixel of the photos that a rendering was held against.

        Args:
            rows: which photos of the `PhotoSet` of that size these are.
        """
        ...

    def update(self, frozen: Int[Tensor, "1"] | None = None) -> None:
        """Learn from the gradients of the last loss, if there is any and `frozen` is not set."""
        ...

    def state(self) -> Mapping[str, Tensor]:
        """Everything that a resumed run needs, by name."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        ...


class TrustAll:
    """Every pixel may teach: the masker of a plain run."""

    def __call__(
        self,
        seen: Evidence,
        rows: Int[Tensor, " C"],  # noqa: ARG002 - the protocol's arguments
    ) -> MaskResult:
        """Weight 1 everywhere."""
        return MaskResult(seen.color.new_ones(seen.color.shape[:3]))

    def update(self, frozen: Int[Tensor, "1"] | None = None) -> None:
        """Nothing to learn."""

    def state(self) -> Mapping[str, Tensor]:
        """Nothing to save."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to load."""


CLEAR_EXCESS = 0.3  # beyond the usual residual: another object stands there


@dataclass(frozen=True)
class Scale:
    """Which feature residuals are trusted: in full up to `low`, not at all from `low + span` on."""

    low: Float[Tensor, "C 1 1"]
    span: Float[Tensor, "C 1 1"]


def scale_of_the_usual(seen: Evidence) -> Scale:
    """Full trust up to the photo's usual residual, none where it is clearly exceeded."""
    return Scale(seen.usual, torch.full_like(seen.usual, CLEAR_EXCESS))


def scale_of_the_best(seen: Evidence) -> Scale:
    """Trust from 0 at the largest residual of each photo to 1 at its smallest, as in AsymGS."""
    low = seen.by_feature.amin(dim=(1, 2), keepdim=True)
    span = seen.by_feature.amax(dim=(1, 2), keepdim=True) - low
    return Scale(low, span.clamp_min(1e-12))


class CandidateMasker(TrustAll):
    """Takes out the candidate segments in which high residuals are denser than in the photo.

    The hard mask of AsymGS (arXiv 2506.03538): decided anew at every call, nothing is learned. A
    photo without candidates, or without a segment above the mean density, is trusted as a whole.
    Two rules are added to the paper's, since it only compares within a photo: a segment must also
    differ in absolute terms, and one that clearly does is taken out in any case.
    """

    def __init__(
        self,
        settings: MaskerSettings,
        photos: Sequence[PhotoSet],
        candidates: CandidateSource,
    ) -> None:
        self._settings = settings
        self._rule = SegmentRule(
            settings.min_feature_residual, CLEAR_EXCESS, settings.certain_excess
        )
        self._photos = photos
        self._candidates = candidates
        self._banks: dict[tuple[int, int], SegmentBank] = {}

    @torch.no_grad()
    def __call__(
        self,
        seen: Evidence,
        rows: Int[Tensor, " C"],
    ) -> MaskResult:
        """0 inside distractor segments, 1 elsewhere."""
        settings = self._settings
        color, feature = seen.thresholds(settings.quantile, settings.feature_quantile)
        residuals = Residuals(seen.by_color, seen.by_feature, color, feature, seen.usual)
        weight = self._bank(seen.by_feature).trust(rows, residuals, self._rule)
        if settings.dilation:
            reach = settings.dilation
            weight = -F.max_pool2d(-weight, 2 * reach + 1, stride=1, padding=reach)
        return MaskResult(weight)

    def _bank(self, like: Float[Tensor, "C H W"]) -> SegmentBank:
        height, width = like.shape[1:]
        if (height, width) not in self._banks:
            views = _views_of(self._photos, like)
            with ThreadPoolExecutor() as pool:  # most of it is unpacking
                found = list(pool.map(lambda i: self._of_size(i, height, width), views))
            self._banks[height, width] = SegmentBank.of(found, like.device)
        return self._banks[height, width]

    def _of_size(self, view_id: int, height: int, width: int) -> Candidates:
        found = self._candidates(view_id)
        if found.labels.shape[1:] != (height, width):
            raise ValueError(
                f"candidates of view {view_id} are {tuple(found.labels.shape[1:])}, "
                f"the image is {(height, width)}"
            )
        return found


def _views_of(photos: Sequence[PhotoSet], like: Float[Tensor, "C H W"]) -> tuple[int, ...]:
    """The views whose photos have the size of `like`."""
    height, width = like.shape[1:]
    for one in photos:
        if (one.height, one.width) == (height, width):
            return one.view_ids
    sizes = [(one.height, one.width) for one in photos]
    raise ValueError(f"no training photo is {(height, width)}, there are {sizes}")


def fresh_bank(num_photos: int, like: Float[Tensor, "C H W"], logit: float) -> TrustBank:
    """The soft masks of photos of the size of `like`, before anything is learnt."""
    logits = like.new_full((num_photos, *like.shape[1:]), logit)
    count = torch.zeros(num_photos, dtype=torch.int64, device=like.device)
    return TrustBank(logits, torch.zeros_like(logits), torch.zeros_like(logits), count)


@dataclass(frozen=True)
class Drawn:
    """Photos that the last call judged, with the logits that their gradient arrives in."""

    bank: TrustBank
    rows: Int[Tensor, " C"]
    logits: Float32[Tensor, "C H W"]


class PixelwiseMasker:
    """Learns one trust value per pixel and photo from the feature residual.

    The soft mask of AsymGS (arXiv 2506.03538). It takes 12 bytes for each pixel of all photos.
    """

    SHARPNESS = 8.0  # the paper's factor inside the sigmoid
    FIRST_LOGIT = 1.0  # a trust of 0.9997 before anything is learned
    LARGEST_LOGIT = 1.5  # beyond it a float32 sigmoid is flat and a pixel could never come back
    BETAS = (0.9, 0.999)
    EPSILON = 1e-15
    UNBIASED_AFTER = 20_000  # updates, after which Adam's corrections are 1 in float32
    TARGETS = MappingProxyType({"excess": scale_of_the_usual, "minmax": scale_of_the_best})

    def __init__(self, settings: MaskerSettings, photos: Sequence[PhotoSet]) -> None:
        self._settings = settings
        self._photos = photos
        self._banks: dict[tuple[int, int], TrustBank] = {}
        self._saved: dict[str, Tensor] = {}
        self._drawn: list[Drawn] = []
        self._rates = self._adam_rates()

    def _adam_rates(self) -> Float32[Tensor, "U 2"]:
        """Adam's step size and root scale of each update, the first in row 0."""
        update = torch.arange(1, self.UNBIASED_AFTER + 1, dtype=torch.float64)
        first, second = (1.0 - beta**update for beta in self.BETAS)
        return torch.stack([self._settings.learning_rate / first, second.rsqrt()], dim=1).float()

    def __call__(
        self,
        seen: Evidence,
        rows: Int[Tensor, " C"],
    ) -> MaskResult:
        """The learned trust, and its distance from what the feature residual says now."""
        residual, scale = seen.by_feature, self.TARGETS[self._settings.soft_target](seen)
        bank = self._bank(residual)
        logits = bank.logits[rows].requires_grad_()
        self._drawn.append(Drawn(bank, rows, logits))
        if residual.is_cuda:
            low, span = scale.low.flatten(), scale.span.flatten()
            loss, weight = trust_loss(
                logits, residual, low=low, span=span, sharpness=self.SHARPNESS
            )
            return MaskResult(weight, loss)
        weight = torch.sigmoid(self.SHARPNESS * logits)
        target = 1.0 - excess(residual, scale.low, scale.span)
        return MaskResult(weight.detach(), (weight - target).abs().mean())

    def _bank(self, like: Float[Tensor, "C H W"]) -> TrustBank:
        height, width = like.shape[1:]
        if (height, width) not in self._banks:
            count = len(_views_of(self._photos, like))
            bank = fresh_bank(count, like, self.FIRST_LOGIT)
            self._restore(bank, f"{width}x{height}")
            self._banks[height, width] = bank
            self._rates = self._rates.to(like.device)
        return self._banks[height, width]

    @torch.no_grad()
    def update(self, frozen: Int[Tensor, "1"] | None = None) -> None:
        """One Adam step for the photos drawn since the last update; the others stay untouched."""
        for drawn in self._drawn:
            if drawn.logits.grad is not None:
                self._step(drawn, drawn.logits.grad, frozen)
        self._drawn.clear()

    def _step(
        self, drawn: Drawn, grad: Float32[Tensor, "C H W"], frozen: Int[Tensor, "1"] | None
    ) -> None:
        bank, rows, logits = drawn.bank, drawn.rows, drawn.logits.detach()
        if logits.is_cuda:
            trust_step_(
                bank,
                rows,
                grad,
                self._rates,
                beta1=self.BETAS[0],
                beta2=self.BETAS[1],
                eps=self.EPSILON,
                most=self.LARGEST_LOGIT,
                frozen=frozen,
            )
            return
        if len(rows) > 1:  # a photo that was drawn twice learns once, from both gradients
            is_same = (rows[:, None] == rows).to(grad.dtype)
            grad = (is_same @ grad.flatten(1)).reshape(grad.shape)
        exp_avg, exp_avg_sq = bank.exp_avg[rows], bank.exp_avg_sq[rows]
        count = bank.num_updates[rows]
        adam_step_(
            logits.unbind(),
            grad.unbind(),
            exp_avg.unbind(),
            exp_avg_sq.unbind(),
            rates=self._rates[count.clamp(max=self.UNBIASED_AFTER - 1)],
            beta1=self.BETAS[0],
            beta2=self.BETAS[1],
            eps=self.EPSILON,
            frozen=frozen,
        )
        logits.clamp_(-self.LARGEST_LOGIT, self.LARGEST_LOGIT)
        bank.logits.index_copy_(0, rows, logits)
        bank.exp_avg.index_copy_(0, rows, exp_avg)
        bank.exp_avg_sq.index_copy_(0, rows, exp_avg_sq)
        bank.num_updates.index_copy_(0, rows, count + 1 if frozen is None else count + 1 - frozen)

    def state(self) -> Mapping[str, Tensor]:
        """Logits, both moments and the number of updates of every photo that has learnt."""
        tensors = dict(self._saved)
        for (height, width), bank in self._banks.items():
            learnt = bank.num_updates.nonzero()[:, 0]
            size = f"{width}x{height}"
            tensors[f"rows/{size}"] = learnt
            tensors |= {f"{name}/{size}": value[learnt] for name, value in vars(bank).items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Forget every photo and continue from `tensors`."""
        self._saved = dict(tensors)
        self._banks.clear()
        self._drawn.clear()

    def _restore(self, bank: TrustBank, size: str) -> None:
        """Take over what a checkpoint says of the photos of one size."""
        if f"rows/{size}" not in self._saved:
            return
        rows = self._saved.pop(f"rows/{size}").to(bank.num_updates.device)
        for name, value in vars(bank).items():
            value[rows] = self._saved.pop(f"{name}/{size}").to(value.device)


def _candidate_masker(
    settings: MaskerSettings, photos: Sequence[PhotoSet], candidates: CandidateSource | None
) -> Masker:
    if candidates is None:
        raise ValueError("the hard masker needs candidates")
    return CandidateMasker(settings, photos, candidates)


Builder = Callable[[MaskerSettings, Sequence[PhotoSet], CandidateSource | None], Masker]

MASKERS: dict[MaskerKind, Builder] = {
    "none": lambda *_: TrustAll(),
    "hard": _candidate_masker,
    "soft": lambda settings, photos, _: PixelwiseMasker(settings, photos),
}
"""Every kind of masker by name; a new one is a class and an entry."""


def build_masker(
    kind: MaskerKind,
    settings: MaskerSettings,
    photos: Sequence[PhotoSet],
    candidates: CandidateSource | None = None,
) -> Masker:
    """The masker of that kind.

    Args:
        photos: all training photos, by size.
        candidates: view id to candidates at the size of its image; only `hard` asks for them.
    """
    return MASKERS[kind](settings, photos, candidates)
