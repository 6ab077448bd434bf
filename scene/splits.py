"""Which views train and which test, by the dataset's own lists where it has some.

Sees names only. A view that a list holds out is never trained on, whatever the command line says.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from arguments.messages import Messages, UserError

HOLD_OUT_EVERY = 8
FEWEST_VIEWS_TO_HOLD_OUT = 3
LARGEST_LIST_BYTES = 64 << 20
LIST_FILES = (
    ("train_list.txt", "test_list.txt"),
    ("splits/train.txt", "splits/test.txt"),
)


@dataclass(frozen=True)
class Split:
    """Names of the views that train and of those that test, and the rule in words."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    rule: str


@dataclass(frozen=True)
class Names:
    """What a list may name.

    Attributes:
        usable: the views that can be trained on or tested, sorted.
        known: names that exist but cannot be used: no pose, missing or broken.
    """

    usable: tuple[str, ...]
    known: tuple[str, ...]


def choose_split(source: Path, names: Names, hold_out: bool, messages: Messages) -> Split:
    """Split the views by the first rule that the dataset has material for.

    Args:
        hold_out: hold out every 8th view where the dataset says nothing.

    Raises:
        UserError: a list names unknown images, or one view in both.
    """
    split = _from_lists(source, names) or _from_json(source, names) or _from_names(names)
    is_test_expected = hold_out or split is not None
    split = split or _every_eighth(names, hold_out)
    both = sorted(set(split.train) & set(split.test))
    if both:
        raise UserError(
            f"{split.rule}: {len(both)} images are in train and in test (first: {both[0]}); "
            "remove them from one"
        )
    if not split.train:
        raise UserError(f"{split.rule}: no image to train on; check the list")
    unused = len(names.usable) - len(split.train) - len(split.test)
    rest = f", {unused} in neither" if unused else ""
    messages.note(f"split: {split.rule}: {len(split.train)} train, {len(split.test)} test{rest}")
    if not split.test and is_test_expected:
        messages.warn(f"no test images ({split.rule}); there will be no metrics")
    return split


class _Matcher:
    """Finds the view that a line of a list means: its name, its file name, or either's stem."""

    def __init__(self, names: Names) -> None:
        self.usable = set(names.usable)
        self.view_by_alias: dict[str, str | None] = {}
        for name in (*names.usable, *names.known):
            for alias in _aliases(name):
                is_taken = self.view_by_alias.get(alias, name) != name
                self.view_by_alias[alias] = None if is_taken else name
        for name in (*names.usable, *names.known):
            self.view_by_alias[name] = name

    def find(self, word: str) -> str | None:
        """The view's name, None where no image or more than one is meant."""
        for alias in (word, word.removeprefix("./"), *_aliases(word.removeprefix("images/"))):
            found = self.view_by_alias.get(alias)
            if found is not None:
                return found
        return None

    def usable_views(self, words: Sequence[str], file_name: str) -> tuple[str, ...]:
        """The usable views that a list names, sorted.

        Raises:
            UserError: a name that no image has.
        """
        found, unknown = set(), []
        for word in words:
            name = self.find(word)
            if name is None:
                unknown.append(word)
            elif name in self.usable:
                found.add(name)
        if unknown:
            raise UserError(
                f"{file_name}: {len(unknown)} of {len(words)} names are no image of this dataset "
                f"(first: '{unknown[0][:100]}'); correct the list"
            )
        return tuple(sorted(found))


def _aliases(name: str) -> tuple[str, ...]:
    """Shorter ways to write a name."""
    path = PurePosixPath(name)
    return name, path.with_suffix("").as_posix() if path.name else name, path.name, path.stem


def _read(path: Path) -> str:
    """A small text file.

    Raises:
        UserError: it is huge or not text.
    """
    if path.stat().st_size > LARGEST_LIST_BYTES:
        raise UserError(f"{path.name} has {path.stat().st_size} bytes; a list of names is smaller")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path.name} is not text (byte {error.start}); save it as UTF-8"
        ) from error


def _from_lists(source: Path, names: Names) -> Split | None:
    """`train_list.txt` and `test_list.txt`, or `splits/train.txt` and `splits/test.txt`."""
    for train_name, test_name in LIST_FILES:
        train_path, test_path = source / train_name, source / test_name
        if not train_path.is_file() and not test_path.is_file():
            continue
        matcher = _Matcher(names)
        listed: dict[Path, tuple[str, ...]] = {}
        for path in (train_path, test_path):
            if path.is_file():
                lines = (line.strip() for line in _read(path).splitlines())
                words = [line for line in lines if line and not line.startswith("#")]
                listed[path] = matcher.usable_views(words, path.name)
        test = listed.get(test_path, ())
        train = listed.get(train_path)
        if train is None:
            train = tuple(name for name in names.usable if name not in set(test))
        present = [name for name in (train_name, test_name) if (source / name).is_file()]
        return Split(train, test, " and ".join(present))
    return None


def _from_json(source: Path, names: Names) -> Split | None:
    """On-the-go's `split.json`: index lists over the sorted names of `transforms.json`.

    Without that file the names are those of all photos.
    """
    split_path, frames_path = source / "split.json", source / "transforms.json"
    if not split_path.is_file():
        return None
    if frames_path.is_file():
        listed = sorted(_frame_names(frames_path))
    else:
        listed = sorted({*names.usable, *names.known})
    groups = _load_json(split_path)
    matcher = _Matcher(names)
    chosen = []
    for group in ("clutter", "extra"):
        indices = groups.get(group)
        if not isinstance(indices, list):
            raise UserError(f"split.json has no list '{group}'; expected lists clutter and extra")
        for index in indices:
            if not isinstance(index, int) or not 0 <= index < len(listed):
                raise UserError(
                    f"split.json: '{group}' has the index {index!r}; there are {len(listed)} images"
                )
        chosen.append(matcher.usable_views([listed[index] for index in indices], "split.json"))
    return Split(chosen[0], chosen[1], "split.json (train = clutter, test = extra)")


def _load_json(path: Path) -> dict[str, object]:
    """A JSON object.

    Raises:
        UserError: it is not one.
    """
    try:
        loaded = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is not valid JSON ({error}); save it again") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path.name} holds a {type(loaded).__name__}, expected an object")
    return loaded


def _frame_names(path: Path) -> list[str]:
    """The image names of a `transforms.json`, without folders."""
    frames = _load_json(path).get("frames")
    if not isinstance(frames, list):
        raise UserError(f"{path.name} has no list 'frames'")
    found = []
    for number, frame in enumerate(frames):
        file_path = frame.get("file_path") if isinstance(frame, dict) else None
        if not isinstance(file_path, str):
            raise UserError(f"{path.name}: frame {number} has no file_path")
        found.append(PurePosixPath(file_path).name)
    return found


def _from_names(names: Names) -> Split | None:
    """RobustNeRF's file names: `clutter` trains, `extra` tests, `clean` is left out."""
    clutter, extra = (
        tuple(name for name in names.usable if _is_only(name, word, other))
        for word, other in (("clutter", "extra"), ("extra", "clutter"))
    )
    if not clutter or not extra:
        return None
    return Split(clutter, extra, "file names (train = clutter, test = extra)")


def _is_only(name: str, word: str, other: str) -> bool:
    """Whether a file name holds one word and not the other."""
    file_name = PurePosixPath(name).name
    return word in file_name and other not in file_name


def _every_eighth(names: Names, hold_out: bool) -> Split:
    """INRIA's rule: every 8th view by sorted name tests, or none does."""
    if not hold_out:
        return Split(names.usable, (), "all views train (no --eval, no lists)")
    if len(names.usable) < FEWEST_VIEWS_TO_HOLD_OUT:
        return Split(names.usable, (), f"{len(names.usable)} views are too few to hold one out")
    test = names.usable[::HOLD_OUT_EVERY]
    train = tuple(name for name in names.usable if name not in set(test))
    return Split(train, test, f"every {HOLD_OUT_EVERY}th by name")
