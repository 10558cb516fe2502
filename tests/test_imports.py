"""Who may import whom, what starting the command line loads, and what no file may name."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PORTIONS = ("engine", "sweeps", "calibration", "results", "figures")
LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the import contract on the packages of a folder; its .import comes before an installed batchcube."""
    environment = {**os.environ, "PYTHONPATH": str(folder / ".import"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_import_contract_is_kept() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


VIOLATIONS = [
    ("engine", "import batchcube.api"),
    ("results", "import batchcube"),
    ("engine", "import batchcube.results"),
    ("engine", "import scipy.stats"),
    ("calibration", "import batchcube.sweeps"),
    ("results", "import batchcube.engine"),
    ("figures", "import batchcube.engine"),
    ("sweeps/workloads", "import batchcube.figures"),
    ("engine", "import jax.numpy"),
    ("sweeps/workloads", "import jax"),
    ("sweeps/spec", "import batchcube.sweeps.run"),
    ("sweeps/run", "import batchcube.sweeps.cli"),
    ("engine/policies", "import batchcube.engine.numba"),
    ("engine/batches", "import batchcube.engine.continuous"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the contract says of a copy with all violations; nobody imports them, so none is noticed for another."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "front", folder / ".import" / "batchcube")
    for portion in PORTIONS:
        shutil.copytree(ROOT / portion, folder / ".import" / "batchcube" / portion)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for number, (importer, statement) in enumerate(VIOLATIONS):
        file = folder / ".import" / "batchcube" / importer / f"violation_{number}.py"
        file.write_text(f"def late():\n    {statement}\n", encoding="utf-8")
    done = lint(folder)
    assert done.returncode == 1
    return done.stdout


@pytest.mark.parametrize(("number", "importer", "statement"), [(n, *one) for n, one in enumerate(VIOLATIONS)])
def test_import_contract_notices_a_violation(said: str, number: int, importer: str, statement: str) -> None:
    module = f"batchcube.{importer.replace('/', '.')}.violation_{number}"
    assert re.search(rf"{re.escape(module)} -> {statement.split()[1].split('.')[0]}", said), said


def test_starting_the_command_line_loads_nothing_heavy() -> None:
    heavy = {"numba", "jax", "xarray", "matplotlib", "pandas", "scipy", "netCDF4", "pyarrow"}
    program = "import sys, batchcube.sweeps.cli.main; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "batchcube" in loaded
    assert loaded & heavy == set()


UNTIL_THE_FIRST_RESULT = """
import sys
from batchcube.sweeps.cli.main import main
from batchcube.sweeps.progress import PlainLines

def show(self, text):
    print(*sorted(sys.modules), file=sys.stdout, flush=True)
    raise KeyboardInterrupt

PlainLines.show = show
# So many that tasks are left when the first is done.
main(["run", "multi-bin-fig8", "--replications", "40", "--set", "workload.requests=500"])
"""


def test_a_run_loads_nothing_before_its_first_result_that_only_cubes_need(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNTIL_THE_FIRST_RESULT], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 130, done.stderr
    loaded = set(done.stdout.split())
    assert "batchcube.engine.batches.numba.static" in loaded
    assert loaded & {"xarray", "pandas", "matplotlib", "netCDF4", "pyarrow", "scipy.special", "scipy.stats"} == set()


def imported(node: ast.AST) -> list[str]:
    """Give the absolute module names that a statement imports."""
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and node.level == 0 else []
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_no_package_is_imported_under_its_folder_name() -> None:
    second_copies = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for portion in ("front", *PORTIONS)
        for file in sorted((ROOT / portion).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(name.partition(".")[0] in PORTIONS for name in imported(node))
    ]
    assert second_copies == []


def relatively_imported(node: ast.AST) -> list[str]:
    """Give what a statement imports from its own package: jax.driver for `from ..jax.driver import x`."""
    if not isinstance(node, ast.ImportFrom) or node.level == 0:
        return []
    return [node.module] if node.module else [alias.name for alias in node.names]


def imported_at_module_level(portion: str, wanted: re.Pattern[str]) -> list[str]:
    """Give the places below a folder, outside functions, that import modules whose names match."""
    at_module_level = []
    for file in sorted((ROOT / portion).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if not wanted.search(text):
            continue
        tree = ast.parse(text)
        inside = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            for node in ast.walk(function)
        }
        at_module_level += [
            f"{file.relative_to(ROOT)}:{node.lineno}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            and id(node) not in inside
            and any(wanted.match(name) for name in [*imported(node), *relatively_imported(node)])
        ]
    return at_module_level


def test_sweeps_imports_figures_inside_functions_only() -> None:
    assert imported_at_module_level("sweeps", re.compile(r"batchcube\.figures\b")) == []


def test_what_needs_jax_is_imported_inside_functions_only() -> None:
    needs = re.compile(r"(?:batchcube\.engine\.)?(?:batches\.)?jax\b")
    places = [place for portion in PORTIONS for place in imported_at_module_level(portion, needs)]
    inside = [place for place in places if place.startswith("engine/batches/jax/")]
    assert inside, "nothing is found where jax is at home"
    assert [place for place in places if place not in inside] == []


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("the list of project files comes from git, and this is no git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    machine_path = re.compile(r"(?<![\w.}/~-])(?:/(?:home|root|work|Users|mnt)/\w|[A-Z]:\\\\?[A-Za-z])")
    named = []
    for name in filter(None, tracked.split("\0")):
        file = ROOT / name
        if file.is_symlink() or not file.is_file():
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        named += [f"{name}: {match.group()}" for match in machine_path.finditer(text)]
    assert named == []
