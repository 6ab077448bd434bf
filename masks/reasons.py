"""Why each segment was kept or dropped, in words: one small table per photo beside its candidates.

For people and spreadsheets; training reads the candidates only.
"""

from pathlib import Path

from jaxtyping import Float32
from numpy import ndarray

from arguments.messages import ExitCode, UserError
from masks.static_evidence import KINDS, EvidenceSettings, SegmentVerdicts, Verdict, is_candidate
from scene.atomic import write_atomic

WORDS = {
    Verdict.CANDIDATE: "keypoints missing",
    Verdict.DIFFERS: "other photos differ",
    Verdict.STATIC: "keypoints seen elsewhere",
    Verdict.MATCHED: "matches in the database",
    Verdict.RECOGNIZED: "features seen elsewhere",
    Verdict.AGREES: "other photos agree",
    Verdict.UNDECIDABLE: "too little texture",
}
SHORT = {Verdict.CANDIDATE: "missing", Verdict.DIFFERS: "differ"}
HEADER = (
    f"layer,label,pixels,found,{','.join(KINDS)},expected,density,agreeing,comparable,kept,reason"
)


def rule(settings: EvidenceSettings) -> str:
    """The rule behind the verdicts, in one line."""
    text = (
        f"static at {settings.density:g} or more of the expected keypoints (in tracks of "
        f"{settings.min_track_length} or more photos, or proved otherwise); no verdict below "
        f"{settings.min_expected:g} expected, {settings.min_expected_in_static:g} inside a static "
        "segment"
    )
    if settings.compare_photos:
        text += (
            f"; of the photo's usual agreement with other photos, static from "
            f"{settings.agrees_from:g}, candidate below {settings.differs_below:g}"
        )
    return text


def table(
    verdicts: SegmentVerdicts, found: Float32[ndarray, "K S"], settings: EvidenceSettings
) -> str:
    """Comma-separated values, one row for each segment of every layer, the rule above them.

    `density` is the share of the expected keypoints that was found.

    Args:
        found: keypoints by the kind of evidence that proved them first.
    """
    lines = [f"# {rule(settings)}", HEADER]
    kept = is_candidate(verdicts)
    for row in range(len(verdicts.label)):
        expected = verdicts.expected[row]
        density = verdicts.found[row] / expected if expected > 0 else 0.0
        lines.append(
            f"{verdicts.layer[row]},{verdicts.label[row]},{verdicts.area[row]},"
            f"{verdicts.found[row]:.0f},{','.join(f'{count:.0f}' for count in found[:, row])},"
            f"{expected:.2f},{density:.3f},"
            f"{verdicts.agreeing[row]:.1f},{verdicts.comparable[row]:.1f},"
            f"{int(kept[row])},{WORDS[Verdict(int(verdicts.verdict[row]))]}"
        )
    return "\n".join(lines) + "\n"


def write_table(path: Path, content: str) -> None:
    """Write the table of one photo.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_atomic(path, content.encode())
    except OSError as failure:
        raise UserError(
            f"cannot write {path}: {failure.strerror}; free space or choose another folder",
            ExitCode.FILE_SYSTEM,
        ) from failure


def label_of(verdicts: SegmentVerdicts, row: int) -> str:
    """Why a candidate was kept, for a picture: `0/7 missing`, or cells as in `2/31 differ`."""
    verdict = Verdict(int(verdicts.verdict[row]))
    is_compared = verdict == Verdict.DIFFERS
    part, whole = (
        (verdicts.agreeing, verdicts.comparable)
        if is_compared
        else (verdicts.found, verdicts.expected)
    )
    return f"{part[row]:.0f}/{whole[row]:.0f} {SHORT[verdict]}"
