"""Files of the command line: refused early, written complete or not at all."""

import os
import re
from pathlib import Path

import pytest
import xarray as xr
from matplotlib.figure import Figure

from batchcube.errors import InputError, printable
from batchcube.figures import registry
from batchcube.results.cube import read_cube, write_cube
from batchcube.results.disk import make_folder
from batchcube.sweeps import presets
from batchcube.sweeps.files import require_new, write_text
from batchcube.sweeps.run.execution import run_sweep
from batchcube.sweeps.spec.document import Sweep, files_of, read_document
from helpers.command_line import Answer

TRACED = """
replications = 1
[workload]
trace.path = "{trace}"
[policy]
mode = "fifo_fixed"
batch_size = 2
[server]
service = {{ law = "constant", a1_s_per_token = 0.1 }}
"""
ROWS = "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},10,{1 + i % 7}\n" for i in range(20))


def test_a_text_is_written_and_replaced(tmp_path):
    target = tmp_path / "a.csv"
    write_text(target, "one, τ\n")
    write_text(target, "two\n")
    assert target.read_bytes() == b"two\n"
    assert list(tmp_path.iterdir()) == [target]


def test_a_text_that_cannot_be_moved_into_place_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "a.csv"
    write_text(target, "old\n")

    def full(self, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match=r"a\.csv: cannot be written: No space left on device$"):
        write_text(target, "new\n")
    assert target.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_there_is_not_written_over(tmp_path):
    there = tmp_path / "b.json"
    require_new(tmp_path / "a.json", there)
    there.touch()
    with pytest.raises(InputError, match=r"b\.json: is there already; choose another output, or `overwrite`$"):
        require_new(tmp_path / "a.json", there)


def test_folders_are_made_and_files_in_their_way_are_said(tmp_path):
    make_folder(tmp_path / "x" / "y")
    make_folder(tmp_path / "x" / "y")
    assert (tmp_path / "x" / "y").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file: is a file, must be a folder$"):
        make_folder(tmp_path / "file")
    with pytest.raises(InputError, match=r"z: cannot be written: Not a directory$"):
        make_folder(tmp_path / "file" / "z")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", ".hidden", "..", "a/b", "a\\\\b", "a\\u0000b", "a\\nb"])
def test_names_stay_in_the_folder(tmp_path, monkeypatch, name):
    with pytest.raises(InputError, match=r"name = .*: must be the name of a file: no / or "):
        Sweep.from_toml(specification(tmp_path / "s.toml", f'name = "{name}"\n'))
    assert Sweep.from_toml(specification(tmp_path / "s.toml", 'name = "τ, 2..3 (a)"\n')).name == "τ, 2..3 (a)"


def specification(file, head="", trace="trace.csv"):
    file.with_name("trace.csv").write_text(ROWS)
    file.write_text(head + TRACED.format(trace=trace))
    return file


def test_what_has_no_end_is_not_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkfifo("pipe.json")
    read = specification(tmp_path / "s.toml", trace="pipe")
    tables = specification(tmp_path / "t.toml")
    law = ["--set", 'server.service={coefficients="pipe.json"}']
    special = "pipe: is a pipe, a socket or a device, must be a file"
    assert Answer(capsys, "check", "pipe").mistake == special
    assert Answer(capsys, "check", "/dev/zero").mistake.startswith("/dev/zero: is a pipe, a socket or a device")
    assert Answer(capsys, "check", read).mistake.endswith("pipe: is not a file")
    assert "pipe.json: is a pipe, a socket or a device, must be a file" in Answer(capsys, "check", tables, *law).mistake
    assert Answer(capsys, "calibrate", "table", "pipe", "--by", "gpu").status == 2
    assert Answer(capsys, "validate", "pipe", "--coefficients", "qwen3-0.6b-cpu-vllm").mistake == special
    for command in (["show", "pipe"], ["rerun", "pipe", "-o", "x.nc"], ["compare", "pipe", "pipe"]):
        assert Answer(capsys, *command).mistake == "pipe: is no file, must be a cube (NetCDF)"


def test_a_cube_does_not_choose_which_files_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    run_sweep(Sweep.from_toml(specification(mine / "s.toml")), "theirs/cube.nc", backend="reference")
    command = ["rerun", "theirs/cube.nc", "-o", "again.nc", "-q", "--backend", "reference"]
    refused = f"theirs/cube.nc: names {mine / 'trace.csv'}, which is not in its folder; --trust-paths reads it"
    assert Answer(capsys, *command).mistake == f"{refused} all the same"
    assert not Path("again.nc").exists()
    assert Answer(capsys, *command, "--trust-paths").status == 0
    Path("theirs/cube.nc").rename("mine/cube.nc")
    inside = ["rerun", "mine/cube.nc", "-o", "inside.nc", "-q", "--backend", "reference"]
    assert Answer(capsys, *inside).status == 0
    # A link in the folder leads out of it.
    (mine / "trace.csv").rename("trace.csv")
    (mine / "trace.csv").symlink_to(tmp_path / "trace.csv")
    assert "which is not in its folder" in Answer(capsys, *inside, "--overwrite").mistake
    cube = read_cube("mine/cube.nc")
    axes = '{"scale": {"points": {"a": {"workload.trace": {"path": "/etc/hostname"}}}}}'
    write_cube(cube.assign_attrs(specification='{"axes": ' + axes + "}"), "mine/axes.nc")
    assert "names /etc/hostname, which" in Answer(capsys, "rerun", "mine/axes.nc", "-o", "x.nc").mistake


NO_FILES = {
    "circle": "is a symbolic link to itself; remove it, or choose another output",
    "dangling": "is a symbolic link to a file that is not there; remove it, or choose another output",
    "pipe": "is a special file, must be a file name",
    "folder": "is a folder, must be a file name",
    "not\udcffutf8": "is not UTF-8, must be a name that is",
}
LAW = ["--coefficients", "qwen3-0.6b-cpu-vllm"]


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """Return a function that makes what no output can be, with an ending."""
    monkeypatch.chdir(tmp_path)

    def make(kind, ending):
        path = Path(kind + ending)
        if kind in {"circle", "dangling"}:
            path.symlink_to(path if kind == "circle" else "nothing")
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        return path

    return make


@pytest.mark.parametrize("preset", presets.names())
def test_no_preset_names_a_file_however_its_axes_are_written(preset):
    document, *_ = read_document(preset)
    assert list(files_of(document)) == []


def test_an_axis_of_files_names_them():
    path = "workload.trace.path"
    assert list(files_of({"axes": {"trace": {"path": path, "values": ["/a.csv", "/b.csv"]}}})) == ["/a.csv", "/b.csv"]
    assert list(files_of({"workload": {"trace": {"path": "/a.csv", "start_s": 0.0}}})) == ["/a.csv"]


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize(
    ("command", "ending"),
    [
        (["validate", "gone.jsonl", *LAW, "-o"], ".nc"),
        (["validate", "gone.jsonl", *LAW, "--figure"], ".png"),
        (["calibrate", "log", "gone.jsonl", "-o"], ".json"),
    ],
)
def test_what_is_no_file_is_refused_before_anything_is_read(no_files, capsys, command, ending, kind, overwrite):
    mistake = Answer(capsys, *command, no_files(kind, ending), *overwrite).mistake
    assert mistake == f"{printable(kind + ending)}: {NO_FILES[kind]}"


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_written_over(no_files, kind):
    figure, text = no_files(kind, ".png"), no_files(kind, ".json")
    before = sorted((path.name, path.lstat().st_mode) for path in Path().iterdir())
    with pytest.raises(ValueError, match=re.escape(NO_FILES[kind])):
        registry.save(Figure(), xr.Dataset(), figure)
    with pytest.raises(InputError, match=re.escape(NO_FILES[kind])):
        write_text(text, "text")
    assert sorted((path.name, path.lstat().st_mode) for path in Path().iterdir()) == before


def test_figures_and_texts_follow_links(tmp_path):
    writers = {
        "a.png": lambda path: registry.save(Figure(), xr.Dataset(), path),
        "a.json": lambda path: write_text(path, "text"),
    }
    for name, write in writers.items():
        target, link = tmp_path / f"target-{name}", tmp_path / name
        target.write_text("old")
        link.symlink_to(target)
        write(link)
        assert link.is_symlink()
        assert target.read_bytes() != b"old"


def test_what_a_killed_process_left_of_a_file_goes_with_the_next_writing_of_it(tmp_path: Path) -> None:
    dead, other = tmp_path / ".a.json.0123abcd.part", tmp_path / ".b.json.0123abcd.part"
    dead.touch()
    other.touch()
    write_text(tmp_path / "a.json", "{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "a.json"]
