"""What nerfbaselines (>= 1.2.12) is told of this project: two methods, a protocol without LPIPS.

Found through the entry point `nerfbaselines.specs`, or by NERFBASELINES_REGISTER with this file.
"""

from nerfbaselines import register

from scene.preparation.protocols import DATASETS, DatasetProtocol

PAPER = {
    "paper_title": "Robust Neural Rendering in the Wild with Asymmetric Dual 3D Gaussian Splatting",
    "paper_link": "https://arxiv.org/abs/2506.03538",
    "licenses": [{"name": "Apache-2.0"}],
}


def preset(protocol: DatasetProtocol) -> dict[str, object]:
    """The training flags of a benchmark as nerfbaselines' settings, applied by its id."""
    flags = protocol.training
    pairs = zip(flags[::2], flags[1::2], strict=True)
    settings = {flag.removeprefix("--"): value for flag, value in pairs}
    return {"@apply": [{"dataset": protocol.benchmark_id}], **settings}


PRESETS = {protocol.name: preset(protocol) for protocol in DATASETS}

for identifier, kind, description in (
    ("twinsplat", "TwinSplat", "two models that learn through different masks and must agree"),
    ("twinsplat-ema", "TwinSplatEma", "one model that must agree with its moving average"),
):
    register(
        {
            "id": identifier,
            "method_class": f"evaluation.nerfbaselines_method:{kind}",
            "presets": PRESETS,
            "backends_order": ["python"],
            "metadata": {"name": identifier, "description": description, **PAPER},
            "implementation_status": {p.benchmark_id: "working" for p in DATASETS},
        }
    )

register(
    {
        "id": "without-lpips",
        "evaluation_protocol_class": "evaluation.nerfbaselines_protocol:WithoutLpips",
    }
)
