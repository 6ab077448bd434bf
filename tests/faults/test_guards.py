"""What no file of the project may contain, found in its syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("arguments", "evaluation", "gaussian_renderer", "masks", "scene", "training")
# Read and run what a file says, or run what a string says.
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_MODULES |= {"yaml", "xmlrpc", "telnetlib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
FORBIDDEN_CALLS |= {"torch.hub.load", "torch.jit.load", "zipfile.ZipFile.extractall"}
FORBIDDEN_METHODS = {"extractall", "read_pickle", "to_pickle"}
# Where a file is written by hand, and why that is no artefact under a final name.
WRITERS = {
    "scene/atomic.py": "the one place that writes artefacts",
    "arguments/failures.py": "the crash report, under a name of its own",
    "scene/photo_loading.py": "a cache, by temporary file and rename",
    "training/run_folder.py": "the lock",
}
# What makes datasets writes into folders that did not exist before.
MAKERS = ("scene/preparation/", "scene/synthetic")


@dataclass(frozen=True)
class Module:
    """A source file and its syntax tree."""

    name: str
    tree: ast.Module

    @property
    def calls(self) -> Iterator[ast.Call]:
        """Every call."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))


def modules() -> list[Module]:
    """All source files that users run; tests and measurements are not among them."""
    paths = [*ROOT.glob("*.py"), *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))]
    return [
        Module(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text("utf-8")))
        for path in sorted(paths)
    ]


MODULES = modules()
EACH = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name or attribute; what is neither is shown as dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '...'}.{node.attr}"
    return ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call passes under a name; None where it passes none."""
    for given in call.keywords:
        if given.arg == name:
            return given.value.value if isinstance(given.value, ast.Constant) else ...
    return None


def forbidden_names(tree: ast.Module) -> Iterator[str]:
    """What a file takes from modules that it should leave alone, less the names of errors."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.Import):
            hidden = [a for a in node.names if a.asname and a.name in FORBIDDEN_MODULES]
            yield from (f"{alias.name} as {alias.asname}" for alias in hidden)
        is_part = isinstance(node, ast.Attribute) and dotted(node.value) in FORBIDDEN_MODULES
        if is_part and not node.attr.endswith("Error"):
            yield dotted(node)


@EACH
def test_nothing_can_run_code_from_a_file(module: Module) -> None:
    found = list(forbidden_names(module.tree))
    for call in module.calls:
        name = dotted(call.func)
        is_method = isinstance(call.func, ast.Attribute) and call.func.attr in FORBIDDEN_METHODS
        if name in FORBIDDEN_CALLS or is_method or keyword(call, "shell") not in (None, False):
            found.append(f"{name} in line {call.lineno}")
        if name == "torch.load" and keyword(call, "weights_only") is not True:
            found.append(f"torch.load without weights_only=True in line {call.lineno}")
        if name in ("np.load", "numpy.load") and keyword(call, "allow_pickle") is not False:
            found.append(f"{name} without allow_pickle=False in line {call.lineno}")
    assert found == []


NETWORK = {"urllib.request", "requests", "httpx", "http.client", "socket", "ftplib", "aiohttp"}


@EACH
def test_nothing_needs_a_network(module: Module) -> None:
    found = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in NETWORK]
        if isinstance(node, ast.ImportFrom) and node.module in NETWORK:
            found.append(node.module)
    assert found == []


@EACH
def test_photos_are_opened_with_a_list_of_formats(module: Module) -> None:
    found = [
        call.lineno
        for call in module.calls
        if dotted(call.func) in ("Image.open", "PIL.Image.open")
        and keyword(call, "formats") is None
    ]
    assert found == []


@EACH
def test_no_check_disappears_under_python_O(module: Module) -> None:  # noqa: N802 - its name
    assert [n.lineno for n in ast.walk(module.tree) if isinstance(n, ast.Assert)] == []


@EACH
def test_artefacts_are_written_by_rename_only(module: Module) -> None:
    if module.name in WRITERS or module.name.startswith(MAKERS):
        return
    found = []
    for call in module.calls:
        method = call.func.attr if isinstance(call.func, ast.Attribute) else dotted(call.func)
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        modes += [keyword(call, "mode")]
        is_writing = any(isinstance(m, str) and set(m) & set("wax+") and len(m) < 4 for m in modes)
        if method in ("write_text", "write_bytes", "imsave"):
            found.append(f"{method} in line {call.lineno}")
        if method == "open" and is_writing:
            found.append(f"open for writing in line {call.lineno}")
    assert found == []


def test_every_writer_exists() -> None:
    assert [name for name in WRITERS if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle\npickle.loads(b'')", "from pickle import loads", "import pickle as p"),
        *("eval('1')", "torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)"),
        *("np.load(p, allow_pickle=True)", "subprocess.run('x', shell=True)", "os.system('x')"),
        *("archive.extractall()", "import yaml\nyaml.load(f)", "exec(text)", "torch.hub.load(x)"),
    ],
)
def test_guard_sees_what_it_guards_against(line: str) -> None:
    with pytest.raises(AssertionError):
        test_nothing_can_run_code_from_a_file(Module("x.py", ast.parse(line)))


@pytest.mark.parametrize("line", ["model().eval()", "import pickle\nfail(pickle.UnpicklingError)"])
def test_guard_lets_the_harmless_pass(line: str) -> None:
    test_nothing_can_run_code_from_a_file(Module("x.py", ast.parse(line)))
