"""Files of the command line: refused early, written complete or not at all."""

import os
from pathlib import Path

import pytest

from batchcube.results.cube import read_cube, write_cube
from batchcube.sweeps import Sweep
from batchcube.sweeps.errors import UserError
from batchcube.sweeps.files import make_folder, require_new, write_text

from .command_line import Answer

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
    with pytest.raises(UserError, match=r"a\.csv: cannot be written: No space left on device$"):
        write_text(target, "new\n")
    assert target.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_there_is_not_written_over(tmp_path):
    there = tmp_path / "b.json"
    require_new(tmp_path / "a.json", there)
    there.touch()
    with pytest.raises(UserError, match=r"b\.json: is there already; choose another output, or --overwrite$"):
        require_new(tmp_path / "a.json", there)


def test_folders_are_made_and_files_in_their_way_are_said(tmp_path):
    make_folder(tmp_path / "x" / "y")
    make_folder(tmp_path / "x" / "y")
    assert (tmp_path / "x" / "y").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: is a file, must be a folder$"):
        make_folder(tmp_path / "file")
    with pytest.raises(UserError, match=r"z: cannot be written: Not a directory$"):
        make_folder(tmp_path / "file" / "z")


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", ".hidden", "..", "a/b", "a\\\\b", "a\\u0000b", "a\\nb"])
def test_names_stay_in_the_folder(tmp_path, monkeypatch, name):
    with pytest.raises(UserError, match=r"name = .*: must be the name of a file: no / or "):
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
    Sweep.from_toml(specification(mine / "s.toml")).run("theirs/cube.nc", backend="reference")
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
