"""The command line and its dataclasses."""

import ast
import dataclasses
import json
import typing
from pathlib import Path

import pytest

from arguments.cli import parse_train
from arguments.config import TrainConfig
from arguments.messages import MAX_LINE, ExitCode, UserError, one_line
from arguments.serialization import from_plain, to_json
from training.schedule import Schedule

ROOT = Path(__file__).resolve().parents[2]
CODE = ("arguments", "scene", "gaussian_renderer", "masks", "training", "evaluation")


def settings() -> list[str]:
    """Names of all settings."""
    groups = [typing.get_type_hints(TrainConfig)[f.name] for f in dataclasses.fields(TrainConfig)]
    return [field.name for group in groups for field in dataclasses.fields(group)]


def test_every_setting_is_read_somewhere() -> None:
    read = set()
    files = [p for folder in CODE for p in (ROOT / folder).rglob("*.py")]
    for path in [*files, *ROOT.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                on_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                if not (on_self and path.name == "config.py"):
                    read.add(node.attr)
    assert [name for name in settings() if name not in read] == []


def test_setting_names_are_unique_so_that_flags_need_no_prefix() -> None:
    assert len(settings()) == len(set(settings()))


def test_inria_command_line_parses_unchanged() -> None:
    line = (
        "-s scene -m out -i images_4 -r 2 --eval -w --iterations 7000 --test_iterations 1000 7000 "
        "--save_iterations 1000 7000 --checkpoint_iterations 5000 --sh_degree 2 "
        "--densify_from_iter 500 --densify_until_iter 15000 --densification_interval 100 "
        "--opacity_reset_interval 3000 --densify_grad_threshold 0.0002 --lambda_dssim 0.2 "
        "--position_lr_init 0.00016 --position_lr_final 0.0000016 --position_lr_max_steps 30000 "
        "--feature_lr 0.0025 --opacity_lr 0.05 --scaling_lr 0.005 --rotation_lr 0.001 "
        "--percent_dense 0.01 --data_device cpu --quiet --ip 127.0.0.1 --port 6009 --debug"
    )
    config, notes = parse_train(line.split())
    assert config.model.images == "images_4"
    assert config.run.test_iterations == (1000, 7000)
    assert config.densification.densify_from_iter == 500
    assert [note.split()[0] for note in notes] == ["--ip", "--port", "--debug"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("-s x --iter 3", "--iter"),
        ("-s x --method triple", "triple"),
        ("-m x", "source-path"),
        ("-s x --sh_degree 7", "--sh_degree is 7"),
        ("-s x --iterations 0", "--iterations is 0"),
        ("-s x --resume --overwrite", "exclude"),
        ("-s x --branch_masks hard", "2 branches"),
        ("-s x --hard_quantile 1.5", "--hard_quantile is 1.5"),
        ("-s x --ema_decay 1", "--ema_decay is 1"),
        ("-s x --mask_dilation -1", "--mask_dilation is -1"),
        ("-s x --depths d", "depth supervision"),
        ("-s x --optimizer_type sparse_adam", "one optimizer"),
    ],
)
def test_bad_command_lines_are_refused_in_one_line(line: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as refusal:
        parse_train(line.split())
    assert refusal.value.code == ExitCode.USAGE
    assert "\n" not in str(refusal.value)


def test_configuration_survives_json() -> None:
    config, _ = parse_train("-s a -m b --branch_masks hard soft --max_gaussians 5".split())
    assert from_plain(TrainConfig, json.loads(to_json(config)), "x") == config


def test_unknown_key_in_json_is_refused_by_name() -> None:
    plain = json.loads(to_json(parse_train(["-s", "a"])[0]))
    plain["run"]["turbo"] = True
    with pytest.raises(UserError, match="turbo"):
        from_plain(TrainConfig, plain, "config.json")


def test_messages_never_break_the_line() -> None:
    hostile = one_line("a\nb\x1b[31m" + "c" * 1000)
    assert "\n" not in hostile
    assert "\x1b" not in hostile
    assert len(hostile) <= MAX_LINE


def test_schedule_scales_with_the_iterations() -> None:
    long = Schedule.of(parse_train(["-s", "a"])[0])
    short = Schedule.of(parse_train("-s a --iterations 3000".split())[0])
    assert (long.grow_from, long.grow_until, long.grow_every) == (500, 15_000, 1000)
    assert (short.grow_from, short.grow_until, short.grow_every) == (50, 1500, 100)
    assert short.agree_from * 10 == long.agree_from == 1000
    assert long.reset_every is None


def test_explicit_steps_are_taken_as_they_are() -> None:
    schedule = Schedule.of(parse_train("-s a --iterations 300 --densify_until_iter 250".split())[0])
    assert schedule.grow_until == 250
