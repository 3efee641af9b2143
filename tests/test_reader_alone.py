"""`pip install lurm[reader]` in an empty environment: three libraries and what they bring, and with them everything a reader does."""

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest
from published import publish_day

from lurm.store import Store

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
ALLOWED = {"lurm", "numpy", "pyarrow", "deltalake", "arro3-core", "deprecated", "wrapt", "typing-extensions", "pip", "setuptools"}
READ = """
import sys, lurm, pyarrow as pa, numpy as np
table = lurm.open_table(sys.argv[1])
assert table.vectors(["b"]).shape == (1, 6) and table.to_numpy()[1].shape == (2, 2, 3) and next(table.scan(anchors=[1])).num_rows == 2
labels = pa.table({"user_id": ["a", "c"], "time": ["2022-01-01", "2022-01-02"]})
joined = table.join(labels)
assert joined.column("as_of").to_pylist() == ["2022-01-01", None]
assert np.array_equal(joined.column("embedding")[0].as_py(), table.vectors(["a"])[0])
assert table.join(labels.to_reader(), output="training.parquet").with_vector == 1
for method in (table.to_pandas, table.to_torch):
    try:
        method(["a"])
    except lurm.errors.MissingInputError as error:
        assert "to be installed" in str(error)
    else:
        raise SystemExit(f"{method} found a library that was not installed")
print("read")
"""


@pytest.mark.slow
def test_an_environment_with_nothing_else(tmp_path):
    publish_day(Store(str(tmp_path / "warehouse")), "2022-01-01", ["a", "b"])
    source = tmp_path / "source"  # building leaves folders behind: not in the tree
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    for package in ("lurm", "spark_jobs"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    before = _bytes(tmp_path / "venv")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", f"{source}[reader]"]
    answer = subprocess.run(install, capture_output=True, text=True, check=False, timeout=900)
    if answer.returncode and not os.environ.get("CI"):
        pytest.skip(f"pip could not install the reader: {answer.stderr.strip().splitlines()[-1]}")
    assert answer.returncode == 0, answer.stderr
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=True).stdout
    assert {re.split("[=@ ]", line)[0].lower().replace("_", "-") for line in listed.split()} <= ALLOWED
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    read = [python, "-c", READ, str(tmp_path / "warehouse")]
    answer = subprocess.run(read, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0 and answer.stdout == "read\n", answer.stderr
    lurm = [str(tmp_path / "venv" / "bin" / "lurm"), "read", "--warehouse", str(tmp_path / "warehouse"), "--output", "v.parquet"]
    assert subprocess.run(lurm, cwd=tmp_path, env=clean, capture_output=True, check=False, timeout=120).returncode == 0
    megabytes = (_bytes(tmp_path / "venv") - before) / 1e6
    print(f"installed: {megabytes:.0f} MB")
    said = int(re.search(r"about (\d+) MB", PAGE).group(1))
    assert abs(megabytes - said) <= 0.15 * said, f"docs/reading.md says {said} MB, it is {megabytes:.0f} MB"


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.suffix != ".pyc")
