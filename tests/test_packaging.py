"""The hand-kept lists of the layout: packages, links, version, the README's own links."""

import configparser
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PORTIONS = ("engine", "sweeps", "calibration", "results", "figures")
FOLDERS = {"batchcube": "front"} | {f"batchcube.{portion}": portion for portion in PORTIONS}
"""The folder of each package that does not lie in that of another."""


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def listed(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_every_package_is_listed(setup_cfg: configparser.ConfigParser) -> None:
    found = {
        ".".join(("batchcube", *file.parent.relative_to(ROOT).parts))
        for portion in PORTIONS
        for file in (ROOT / portion).rglob("__init__.py")
    }
    assert set(listed(setup_cfg["options"]["packages"])) == found | {"batchcube"}


def test_no_module_lies_outside_a_package() -> None:
    strays = [
        str(file.relative_to(ROOT))
        for portion in PORTIONS
        for file in (ROOT / portion).rglob("*.py")
        if not (file.parent / "__init__.py").is_file()
    ]
    assert strays == []


def test_package_dir_maps_each_package_to_its_folder(setup_cfg: configparser.ConfigParser) -> None:
    mapping = dict(re.split(r"\s*=\s*", line) for line in listed(setup_cfg["options"]["package_dir"]))
    assert mapping == FOLDERS


def test_package_data_covers_every_data_file(setup_cfg: configparser.ConfigParser) -> None:
    data = setup_cfg["options.package_data"]
    uncovered = []
    for name, top in FOLDERS.items():
        for file in (ROOT / top).rglob("*"):
            if not file.is_file() or file.suffix == ".py" or file.parent.name == "__pycache__":
                continue
            # A folder that is no package is covered by the package that it lies in.
            folder = next(parent for parent in file.parents if (parent / "__init__.py").is_file())
            package, inside = ".".join((name, *folder.relative_to(ROOT / top).parts)), file.relative_to(folder)
            patterns = [Path(pattern) for pattern in re.split(r"[,\s]+", data.get(package, "").strip()) if pattern]
            if not any(len(p.parts) == len(inside.parts) and inside.match(str(p)) for p in patterns):
                uncovered.append(str(file.relative_to(ROOT)))
    assert uncovered == []
    assert (ROOT / "front" / "py.typed").is_file(), "type checkers look for it"


def test_extras_agree_on_the_oldest_jax_and_the_tests_have_it(setup_cfg: configparser.ConfigParser) -> None:
    extras = {name: listed(text) for name, text in setup_cfg["options.extras_require"].items()}
    assert "batchcube[jax]" in extras["test"]
    (jax,), (cuda,) = extras["jax"], extras["cuda"]
    assert jax == re.sub(r"\[cuda\d+\]", "", cuda)


def test_import_links_are_complete() -> None:
    links = {path.name: path for path in (ROOT / ".import" / "batchcube").iterdir()}
    front = {file.name: file for file in (ROOT / "front").glob("*.py")}
    assert set(links) == {*PORTIONS, *front}
    for name, link in links.items():
        assert link.is_symlink()
        assert link.resolve() == front.get(name, ROOT / name)
    assert not (ROOT / "batchcube").exists(), "a real batchcube/ folder would shadow the installed package"


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "batchcube", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, metadata.version("batchcube")), done.stderr


def test_the_last_release_is_the_same_everywhere(setup_cfg: configparser.ConfigParser) -> None:
    """Its version and date; the version of the package is that, or a development version of the next."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[([0-9.]+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE) == ["Unreleased", *(name for name, _ in releases)]
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [releases[0][0]]
    assert re.findall(r"^date-released: (\S+)$", citation, re.MULTILINE) == [releases[0][1]]
    version = setup_cfg["metadata"]["version"]
    numbers = [tuple(map(int, name.split("."))) for name, _ in releases]
    assert numbers == sorted(set(numbers), reverse=True)
    if version != releases[0][0]:
        assert version.endswith(".dev0")
        assert tuple(map(int, version.removesuffix(".dev0").split("."))) > numbers[0]


def test_a_tag_is_the_version_of_its_commit(setup_cfg: configparser.ConfigParser) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no clone")
    listed_tags = subprocess.run(
        ["git", "-C", str(ROOT), "tag", "--list", "v*"], capture_output=True, text=True, check=False
    )
    for tag in listed_tags.stdout.split():
        shown = subprocess.run(
            ["git", "-C", str(ROOT), "show", f"{tag}:setup.cfg"], capture_output=True, text=True, check=True
        )
        there = configparser.ConfigParser()
        there.read_string(shown.stdout)
        assert tag == f"v{there['metadata']['version']}"


def test_every_kind_of_change_is_one_of_keep_a_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    known = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
    for release in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        kinds = re.findall(r"^### (.+)$", release, re.MULTILINE)
        assert kinds == [kind for kind in known if kind in kinds], "each once, in this order"


def test_licence_text_is_complete() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION" in text
    for number in range(1, 10):
        assert re.search(rf"^   {number}\. ", text, re.MULTILINE), f"section {number}"
    assert "END OF TERMS AND CONDITIONS" in text


def anchors(markdown: str) -> set[str]:
    """Give the fragment identifiers that GitHub derives from the headings."""
    headings = re.findall(r"^#+ +(.+?)\s*$", re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Pages that are made when the site is built; Sphinx looks at links to them.
MADE = {line for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines() if line.startswith("docs/")}
PAGES = sorted({str(page.relative_to(ROOT)) for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))} - MADE)


@pytest.mark.parametrize("name", PAGES)
def test_internal_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)[^)]*\)", text) + re.findall(r"""(?:src|href)=["']([^"']+)""", text)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if any(file.relative_to(ROOT).match(made) for made in MADE):
            continue
        if not file.exists() or (fragment and fragment not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []
