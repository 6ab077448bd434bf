"""Which pixels of a photo may teach, given what the model renders there now.

A masker gets colours and images; it renders nothing and does not know how its weights are used.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float
from torch import Tensor

from masks.candidates import Candidates, Segments
from masks.features import FeatureExtractor, FeatureSettings, PatchFilterBank, feature_residual

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
    """Mean distrust (as by `excess` below) that makes a segment a distractor even where larger
    residuals elsewhere take up the quantiles; 1 is the paper's rule."""

    soft_target: Literal["excess", "minmax"] = "excess"
    """What the soft mask learns: excess distrusts what differs clearly more than the photo's
    usual; minmax, the paper's, stretches every photo from full distrust to full trust."""

    learning_rate: float = 0.1
    """Step size of the soft mask's logits."""

    features: FeatureSettings = field(default_factory=FeatureSettings)
    """The patch filters behind the feature residual."""

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
class MaskResult:
    """What a masker says about a batch of views.

    Attributes:
        weight: trust in [0, 1], detached; 1 = may teach, 0 = distractor.
        loss: what the masker's own parameters learn from; None when it has none.
    """

    weight: Float[Tensor, "C H W"]
    loss: Float[Tensor, ""] | None = None


@runtime_checkable
class Masker(Protocol):
    """Judges the pixels of training views; may learn and then carries state."""

    def __call__(
        self,
        color: Float[Tensor, "C H W 3"],
        image: Float[Tensor, "C H W 3"],
        view_ids: Sequence[int],
    ) -> MaskResult:
        """Trust of each pixel of `image`, of which `color` is the present rendering."""
        ...

    def update(self) -> None:
        """Learn from the gradients of the last loss, if there is anything to learn."""
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
        color: Float[Tensor, "C H W 3"],  # noqa: ARG002 - the protocol's arguments
        image: Float[Tensor, "C H W 3"],
        view_ids: Sequence[int],  # noqa: ARG002
    ) -> MaskResult:
        """Weight 1 everywhere."""
        return MaskResult(image.new_ones(image.shape[:3]))

    def update(self) -> None:
        """Nothing to learn."""

    def state(self) -> Mapping[str, Tensor]:
        """Nothing to save."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to load."""


def quantile(values: Float[Tensor, "C H W"], share: float) -> Float[Tensor, "C 1 1"]:
    """The value of each image that `share` of its pixels do not exceed (no interpolation)."""
    flat = values.flatten(1)
    rank = max(1, round(share * flat.shape[1]))
    return flat.kthvalue(rank, dim=1).values[:, None, None]


def color_residual(
    color: Float[Tensor, "C H W 3"], image: Float[Tensor, "C H W 3"]
) -> Float[Tensor, "C H W"]:
    """Mean absolute difference over the channels."""
    return (color - image).abs().mean(dim=-1)


USUAL_RESIDUAL = 0.1  # blur and noise of a good rendering reach this in most photos
CLEAR_EXCESS = 0.3  # beyond the usual: another object stands there


def trust_by_excess(residual: Float[Tensor, "C H W"]) -> Float[Tensor, "C H W"]:
    """Full trust up to the photo's usual residual, none where it is clearly exceeded.

    A photo in another light differs as a whole; its median is then what is usual, so that half of
    it stays trusted.
    """
    usual = quantile(residual, 0.5).clamp_min(USUAL_RESIDUAL)
    return 1.0 - ((residual - usual) / CLEAR_EXCESS).clamp(0.0, 1.0)


def trust_by_span(residual: Float[Tensor, "C H W"]) -> Float[Tensor, "C H W"]:
    """From 0 at the largest residual of each photo to 1 at its smallest, as in AsymGS."""
    low = residual.amin(dim=(1, 2), keepdim=True)
    span = residual.amax(dim=(1, 2), keepdim=True) - low
    return 1.0 - (residual - low) / span.clamp_min(1e-12)


class CandidateMasker(TrustAll):
    """Takes out the candidate segments in which high residuals are denser than in the photo.

    The hard mask of AsymGS (arXiv 2506.03538): decided anew at every call, nothing is learned. A
    photo without candidates, or without a segment above the mean density, is trusted as a whole.
    Two rules are added to the paper's, since it only compares within a photo: a segment must also
    differ in absolute terms, and one that clearly does is taken out in any case.
    """

    def __init__(
        self, settings: MaskerSettings, candidates: CandidateSource, features: FeatureExtractor
    ) -> None:
        self._settings = settings
        self._candidates = candidates
        self._features = features
        self._segments: dict[int, Segments] = {}

    @torch.no_grad()
    def __call__(
        self,
        color: Float[Tensor, "C H W 3"],
        image: Float[Tensor, "C H W 3"],
        view_ids: Sequence[int],
    ) -> MaskResult:
        """0 inside distractor segments, 1 elsewhere."""
        settings = self._settings
        by_color = color_residual(color, image)
        by_feature = feature_residual(color, image, self._features)
        is_high = (by_color > quantile(by_color, settings.quantile)) & (
            by_feature > quantile(by_feature, settings.feature_quantile)
        )
        distractors = torch.stack(
            [
                self._distractors(high.float(), residual, view)
                for high, residual, view in zip(is_high, by_feature, view_ids, strict=True)
            ]
        )
        if settings.dilation:
            reach = settings.dilation
            distractors = F.max_pool2d(distractors, 2 * reach + 1, stride=1, padding=reach)
        return MaskResult(1.0 - distractors)

    def _distractors(
        self, high: Float[Tensor, "H W"], residual: Float[Tensor, "H W"], view_id: int
    ) -> Float[Tensor, "H W"]:
        segments = self._segments_of(view_id, high)
        stands_out = segments.density(high) > high.mean()
        differs = segments.density(residual) > self._settings.min_feature_residual
        distrust = 1.0 - trust_by_excess(residual[None])[0]
        is_certain = segments.density(distrust) > self._settings.certain_excess
        return segments.union((stands_out & differs) | is_certain)

    def _segments_of(self, view_id: int, like: Float[Tensor, "H W"]) -> Segments:
        if view_id not in self._segments:
            labels = self._candidates(view_id).labels.to(like.device)
            if labels.shape[1:] != like.shape:
                raise ValueError(
                    f"candidates of view {view_id} are {tuple(labels.shape[1:])}, "
                    f"the image is {tuple(like.shape)}"
                )
            self._segments[view_id] = Segments.of(Candidates(labels))
        return self._segments[view_id]


@dataclass
class PixelLogits:
    """The soft mask of one photo and its optimizer: trust = sigmoid(SHARPNESS * logits)."""

    logits: Float[Tensor, "H W"]
    exp_avg: Float[Tensor, "H W"]
    exp_avg_sq: Float[Tensor, "H W"]
    num_updates: int = 0


class PixelwiseMasker:
    """Learns one trust value per pixel and photo from the feature residual.

    The soft mask of AsymGS (arXiv 2506.03538). The memory of a photo, 12 bytes a pixel, is taken
    when it is first drawn.
    """

    SHARPNESS = 8.0  # the paper's factor inside the sigmoid
    FIRST_LOGIT = 1.0  # a trust of 0.9997 before anything is learned
    LARGEST_LOGIT = 1.5  # beyond it a float32 sigmoid is flat and a pixel could never come back
    BETAS = (0.9, 0.999)
    EPSILON = 1e-15
    TARGETS = MappingProxyType({"excess": trust_by_excess, "minmax": trust_by_span})

    def __init__(self, settings: MaskerSettings, features: FeatureExtractor) -> None:
        self._settings = settings
        self._features = features
        self._photos: dict[int, PixelLogits] = {}
        self._drawn: set[int] = set()

    def __call__(
        self,
        color: Float[Tensor, "C H W 3"],
        image: Float[Tensor, "C H W 3"],
        view_ids: Sequence[int],
    ) -> MaskResult:
        """The learned trust, and its distance from what the feature residual says now."""
        residual = feature_residual(color.detach(), image, self._features)
        target = self.TARGETS[self._settings.soft_target](residual)
        photos = [self._photo(view_id, image) for view_id in view_ids]
        self._drawn.update(view_ids)
        weight = torch.sigmoid(self.SHARPNESS * torch.stack([p.logits for p in photos]))
        return MaskResult(weight.detach(), (weight - target).abs().mean())

    def _photo(self, view_id: int, image: Float[Tensor, "C H W 3"]) -> PixelLogits:
        if view_id not in self._photos:
            logits = image.new_full(image.shape[1:3], self.FIRST_LOGIT)
            self._photos[view_id] = PixelLogits(
                logits, torch.zeros_like(logits), torch.zeros_like(logits)
            )
        photo = self._photos[view_id]
        photo.logits = photo.logits.to(image.device).requires_grad_()
        photo.exp_avg = photo.exp_avg.to(image.device)
        photo.exp_avg_sq = photo.exp_avg_sq.to(image.device)
        return photo

    @torch.no_grad()
    def update(self) -> None:
        """One Adam step for the photos drawn since the last update; the others stay untouched."""
        for view_id in sorted(self._drawn):
            self._step(self._photos[view_id])
        self._drawn.clear()

    def _step(self, photo: PixelLogits) -> None:
        gradient = photo.logits.grad
        if gradient is None:
            return
        photo.num_updates += 1
        beta1, beta2 = self.BETAS
        photo.exp_avg.lerp_(gradient, 1.0 - beta1)
        photo.exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        step_size = self._settings.learning_rate / (1.0 - beta1**photo.num_updates)
        spread = (photo.exp_avg_sq / (1.0 - beta2**photo.num_updates)).sqrt_().add_(self.EPSILON)
        photo.logits.addcdiv_(photo.exp_avg, spread, value=-step_size)
        photo.logits.clamp_(-self.LARGEST_LOGIT, self.LARGEST_LOGIT)
        photo.logits.grad = None

    def state(self) -> Mapping[str, Tensor]:
        """Logits, both moments and the number of updates of every photo drawn so far."""
        tensors: dict[str, Tensor] = {}
        for view_id, photo in sorted(self._photos.items()):
            tensors[f"logits/{view_id}"] = photo.logits.detach().clone()
            tensors[f"exp_avg/{view_id}"] = photo.exp_avg.clone()
            tensors[f"exp_avg_sq/{view_id}"] = photo.exp_avg_sq.clone()
            tensors[f"num_updates/{view_id}"] = torch.tensor(photo.num_updates)
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Forget every photo and continue from `tensors`."""
        view_ids = [int(name.split("/")[1]) for name in tensors if name.startswith("logits/")]
        self._photos = {
            view_id: PixelLogits(
                tensors[f"logits/{view_id}"].clone(),
                tensors[f"exp_avg/{view_id}"].clone(),
                tensors[f"exp_avg_sq/{view_id}"].clone(),
                int(tensors[f"num_updates/{view_id}"]),
            )
            for view_id in view_ids
        }
        self._drawn = set()


def _candidate_masker(
    settings: MaskerSettings, features: FeatureExtractor, candidates: CandidateSource | None
) -> Masker:
    if candidates is None:
        raise ValueError("the hard masker needs candidates")
    return CandidateMasker(settings, candidates, features)


Builder = Callable[[MaskerSettings, FeatureExtractor, CandidateSource | None], Masker]

MASKERS: dict[MaskerKind, Builder] = {
    "none": lambda settings, features, candidates: TrustAll(),  # noqa: ARG005
    "hard": _candidate_masker,
    "soft": lambda settings, features, candidates: PixelwiseMasker(settings, features),  # noqa: ARG005
}
"""Every kind of masker by name; a new one is a class and an entry."""


def build_masker(
    kind: MaskerKind,
    settings: MaskerSettings,
    candidates: CandidateSource | None = None,
    features: FeatureExtractor | None = None,
) -> Masker:
    """The masker of that kind.

    Args:
        candidates: view id to candidates at the size of its image; only `hard` asks for them.
        features: what the feature residual compares; None takes the fixed patch filters.
    """
    extractor = features if features is not None else PatchFilterBank(settings.features)
    return MASKERS[kind](settings, extractor, candidates)
