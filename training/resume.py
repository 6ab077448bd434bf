"""Whether a run may go on from a checkpoint: which settings may change, and that the data has not.

Knows nothing of tensors.
"""

from dataclasses import fields, is_dataclass

from arguments.config import TrainConfig
from arguments.messages import ExitCode, Messages, UserError
from scene.capture import DIGEST_PARTS

# Nothing that is learnt depends on these, or the digest of the data sees what they change.
FREE = frozenset(
    (
        *(f"model.{name}" for name in ("source_path", "model_path", "images", "eval", "masks")),
        *(f"model.{name}" for name in ("colmap_model", "allow_missing", "init", "follow_links")),
        *(f"model.{name}" for name in ("keep_outliers", "invert_masks", "alpha")),
        *(f"run.{name}" for name in ("checkpoint_every", "keep_checkpoints", "save_iterations")),
        *(f"run.{name}" for name in ("checkpoint_iterations", "checkpoint_minutes")),
        *(f"run.{name}" for name in ("test_iterations", "quiet")),
        *(f"run.{name}" for name in ("start_checkpoint", "resume", "overwrite", "preflight")),
        *(f"run.{name}" for name in ("tensorboard", "accept_changed_data", "cuda_graphs")),
        "run.check_kernels",
        "mask.candidates",
        "mask.dino_checkpoint",
    )
)
# These may change, and the continuation is then another run than the uninterrupted one.
NOTED = {
    "run.iterations": "schedules are those of the new length from here on",
    "run.max_gaussians": "growth differs from here on",
    "run.device": "not bit-exact: device changed",
    "run.data_device": "photos are kept elsewhere; nothing else changes",
}


def check_settings(
    where: str, saved: TrainConfig, now: TrainConfig, is_other_run: bool, messages: Messages
) -> None:
    """Note the harmless differences between the settings of a checkpoint and those of now.

    Args:
        is_other_run: the checkpoint is only a start, so that any setting may differ.

    Raises:
        UserError: a setting differs that the run has learnt with; shows both values.
    """
    before, after = _flat(saved), _flat(now)
    differ = [name for name in after if before[name] != after[name] and name not in FREE]
    shown = {n: f"--{n.split('.')[-1]} {before[n]} (now {after[n]})" for n in differ}
    for name in differ:
        if name in NOTED or is_other_run:
            messages.note(f"{shown[name]}: {NOTED.get(name, 'changed since the checkpoint')}")
    harmful = [shown[name] for name in differ if name not in NOTED]
    if harmful and not is_other_run:
        raise UserError(
            f"{where}: made with another {', '.join(harmful)[:160]}; "
            "give the old values or another -m",
            ExitCode.CHECKPOINT,
        )


def check_data(where: str, saved: str, now: str, is_accepted: bool, messages: Messages) -> None:
    """Compare the digests of the data; `is_accepted` turns the refusal into a warning.

    Raises:
        UserError: the data is not what the checkpoint has learnt from; says which part.
    """
    if saved == now:
        return
    pairs = zip(DIGEST_PARTS, saved.split("-"), now.split("-"), strict=False)
    parts = [part for part, old, new in pairs if old != new] or list(DIGEST_PARTS)
    text = f"{where}: dataset digest differs: {', '.join(parts)} changed since"
    if not is_accepted:
        raise UserError(
            f"{text}; bring the old data back, --accept_changed_data, or another -m",
            ExitCode.CHECKPOINT,
        )
    messages.warn(f"{text}; going on as told")


def _flat(config: object, prefix: str = "") -> dict[str, object]:
    """Every setting by its dotted name."""
    found: dict[str, object] = {}
    for field in fields(config):  # type: ignore[arg-type]
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        found |= _flat(value, f"{name}.") if is_dataclass(value) else {name: value}
    return found
