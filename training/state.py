"""Everything that a run has learnt so far: the one object that is checkpointed, all of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from scene.gaussians import Gaussians, side_by_side
from training.branches import Branch, ProxyBranch, PruneCounts, TrainedBranch
from training.densification import GrowthState
from training.optimizers import GaussianAdam


@dataclass
class TrainState:
    """The branches and how many updates they have had.

    Attributes:
        branches: trained ones first; the first is the run's result.
    """

    branches: list[Branch]
    step: int = 0

    @property
    def trained(self) -> list[TrainedBranch]:
        """The branches that learn from photos."""
        return [branch for branch in self.branches if isinstance(branch, TrainedBranch)]

    @property
    def result(self) -> Gaussians:
        """The Gaussians that the run is for."""
        return self.branches[0].gaussians

    def lay_out(self) -> None:
        """Put the trained branches side by side in memory, so that one call renders them all."""
        trained = self.trained
        sets = side_by_side([branch.gaussians for branch in trained])
        for branch, gaussians in zip(trained, sets, strict=True):
            branch.gaussians = gaussians.requires_grad_()

    def tensors(self) -> dict[str, Tensor]:
        """All that is learnt, by a name that says where it belongs."""
        named: dict[str, Tensor] = {}
        for branch in self.branches:
            named |= {f"{branch.name}/gaussians/{n}": t for n, t in branch.gaussians.tensors()}
            if isinstance(branch, TrainedBranch):
                named |= {
                    f"{branch.name}/adam/{n}": t for n, t in branch.optimizer.tensors().items()
                }
                named |= {f"{branch.name}/growth/{n}": t for n, t in vars(branch.growth).items()}
                named |= {
                    f"{branch.name}/pruned/{n}": torch.tensor(count)
                    for n, count in vars(branch.pruned).items()
                }
                for i, masker in enumerate(branch.maskers):
                    named |= {f"{branch.name}/mask{i}/{n}": t for n, t in masker.state().items()}
        return {name: tensor.detach() for name, tensor in named.items()}

    def forget(self) -> None:
        """Drop all that was learnt, Gaussians and masks, and give their memory back."""
        for branch in self.branches:
            branch.gaussians = branch.gaussians.map(lambda t: t.detach()[:0].clone())
            if isinstance(branch, TrainedBranch):
                branch.gaussians.requires_grad_()
                branch.optimizer = GaussianAdam(branch.gaussians)
                branch.growth = branch.strategy.initialize_state(branch.gaussians)
                for masker in branch.maskers:
                    masker.load_state({})

    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take everything from a checkpoint that `tensors` made; on this state's device.

        Raises:
            KeyError: a tensor is missing.
        """
        self.step = step
        device = self.result.device
        groups = _grouped(tensors)
        for branch in self.branches:  # part by part: a GPU may have no room for old and new states
            parts = groups[branch.name]
            branch.gaussians = Gaussians(**_on(device, parts["gaussians"]))
            if isinstance(branch, TrainedBranch):
                branch.gaussians.requires_grad_()
                branch.optimizer.load(_on(device, parts["adam"]))
                branch.growth = GrowthState(**_on(device, parts["growth"]))
                branch.pruned = PruneCounts(
                    **{n: int(t) for n, t in parts.get("pruned", {}).items()}
                )
                for i, masker in enumerate(branch.maskers):
                    masker.load_state(_on(device, parts.get(f"mask{i}", {})))
        self.lay_out()


def _on(device: torch.device, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def _grouped(tensors: dict[str, Tensor]) -> dict[str, dict[str, dict[str, Tensor]]]:
    groups: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        branch, part, rest = name.split("/", 2)
        groups.setdefault(branch, {}).setdefault(part, {})[rest] = tensor
    return groups


def link_proxies(live: TrainedBranch, decay: float) -> ProxyBranch:
    """A proxy that starts as a copy of `live` and follows it from now on."""
    proxy = ProxyBranch(
        f"{live.name}-average", live.gaussians.map(lambda t: t.detach().clone()), decay
    )
    live.proxy = proxy
    return proxy
