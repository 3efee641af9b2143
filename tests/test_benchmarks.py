"""The benchmarks can be called as their first lines say, and `make bench` writes its own section of a page and nothing else."""

import importlib.util
import runpy
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
FILES = sorted(file.stem for file in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def all_benchmarks():
    specification = importlib.util.spec_from_file_location("all_benchmarks", FOLDER / "all.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", FILES)
def test_a_benchmark_says_how_it_is_called(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    assert left.value.code == 0
    assert f"python benchmarks/{name}.py" in capsys.readouterr().out, "an example of a call, in the docstring"


def test_every_benchmark_is_run_or_left_out_for_a_reason(all_benchmarks):
    assert sorted([*all_benchmarks.RUNS, *all_benchmarks.LEFT_OUT]) == FILES


def test_the_gpu_side_says_not_run_where_there_is_no_gpu(monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    runpy.run_path(str(FOLDER / "gpu.py"), run_name="__main__")
    table = capsys.readouterr().out.partition("unit\n")[2].splitlines()
    assert len(table) >= 15 and all(" not run " in line for line in table), table


BEFORE, AFTER = "# Page\n\nWritten by hand.\n\n", "\n\n## More\n\nAlso by hand.\n"


def test_exactly_its_section_is_replaced(all_benchmarks, tmp_path):
    begin, end = all_benchmarks.MARKS
    page = tmp_path / "performance.md"
    page.write_text(f"{BEFORE}{begin}\nold table\n{end}{AFTER}")
    all_benchmarks.write_section(page, "\nnew table\n")
    assert page.read_text() == f"{BEFORE}{begin}\n\nnew table\n\n{end}{AFTER}"
    all_benchmarks.write_section(page, "\nnew table\n")
    assert page.read_text() == f"{BEFORE}{begin}\n\nnew table\n\n{end}{AFTER}", "written again, it is the same"
    assert [file.name for file in tmp_path.iterdir()] == ["performance.md"]


def test_a_page_without_marks_gets_them_at_its_end(all_benchmarks, tmp_path):
    begin, end = all_benchmarks.MARKS
    page = tmp_path / "performance.md"
    page.write_text(BEFORE)
    all_benchmarks.write_section(page, "table")
    assert page.read_text() == f"{BEFORE}{begin}\ntable\n\n{end}\n"


@pytest.mark.parametrize("text", ["{0}\n", "{1}\n", "{1}\n{0}\n", "{0}\n{1}\n{0}\n{1}\n"])
def test_a_page_with_broken_marks_is_left_alone(all_benchmarks, tmp_path, text):
    page = tmp_path / "performance.md"
    page.write_text(text.format(*all_benchmarks.MARKS))
    with pytest.raises(ValueError, match="each once"):
        all_benchmarks.write_section(page, "table")
    assert page.read_text() == text.format(*all_benchmarks.MARKS)


def test_a_section_cannot_hold_the_marks(all_benchmarks):
    with pytest.raises(ValueError, match="without the comments"):
        all_benchmarks.replaced(BEFORE, all_benchmarks.MARKS[1])


def test_a_failure_and_a_benchmark_that_takes_too_long_are_told(all_benchmarks):
    code, seconds, output = all_benchmarks.run([sys.executable, "-c", "print('so far'); raise SystemExit(3)"], 60)
    assert (code, output) == (3, "so far\n") and all_benchmarks.ending(code, seconds).startswith("failed with exit code 3")
    started = time.monotonic()
    code, seconds, output = all_benchmarks.run([sys.executable, "-c", "print('so far'); import time; time.sleep(60)"], 2)
    assert (code, output) == (None, "so far\n") and time.monotonic() - started < 30
    assert all_benchmarks.ending(code, seconds).startswith("the time was over after")
    assert all_benchmarks.ending(*all_benchmarks.run(["never begun"], -1)[:2]) == "not run, the time was over"


def test_what_is_written_of_one_benchmark(all_benchmarks, monkeypatch, tmp_path, capsys):
    """The machine, the command and the table, through the real main."""
    page = tmp_path / "performance.md"
    page.write_text(BEFORE)
    monkeypatch.setattr(sys, "argv", ["all.py", "--only", "scale", "--output", str(page), "--seconds", "120"])
    assert all_benchmarks.main() == 0, capsys.readouterr()
    written = page.read_text()
    assert written.startswith(BEFORE) and written.count("```") == 4
    assert ".venv/bin/python benchmarks/scale.py\n" in written and " cores, " in written and "numpy " in written
