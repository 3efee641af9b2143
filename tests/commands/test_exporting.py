"""`lurm export`, as it is called."""

import json
from pathlib import Path

import numpy as np
import pytest
from published import MODEL, publish_day, vector

from lurm.cli import main
from lurm.commands import exporting
from lurm.exporting import export as export_module
from lurm.exporting.export_files import FORMATS
from lurm.exporting.quantization import DTYPES
from lurm.store import Store

USERS = [f"u{number:02d}" for number in range(20)]


@pytest.fixture
def uri(tmp_path) -> str:
    store = Store(str(tmp_path / "w"))
    for as_of in ("2021-12-01", "2022-01-01"):
        publish_day(store, as_of, USERS)
    return store.uri


def test_choices_are_those_of_the_library():
    assert (exporting.FORMATS, exporting.DTYPES) == (FORMATS, DTYPES)


def test_an_export_lies_in_the_warehouse_and_says_its_error(uri, capsys):
    assert main(["export", "--warehouse", uri, "--format", "npy", "--dtype", "int8"]) == 0
    folder = Path(uri) / export_module.EXPORTS / f"2022-01-01-{MODEL}-npy-int8"
    record = json.loads((folder / "export.json").read_text())
    assert (record["format"], record["users"], record["ids_file"]) == ("npy", 20, "ids.parquet"), "what `lurm erase` looks at"
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"20 users of 2022-01-01, 6 numbers of int8, model {MODEL}: {folder}"
    assert f"relative L2 {record['error']['relative_l2_mean']:.6g} on average" in second and "nearest 10 kept" in second


def test_an_export_elsewhere_says_that_erasure_does_not_reach_it(uri, tmp_path, capsys):
    arguments = ["export", "--warehouse", uri, "--format", "npy", "--anchor", "1", "--as-of", "2021-12-31", "--output", str(tmp_path / "x")]
    assert main(arguments) == 0
    assert f"lurm erase does not reach {tmp_path / 'x'}" in capsys.readouterr().out
    assert np.array_equal(np.load(tmp_path / "x" / "vectors.npy", allow_pickle=False), [vector(user, "2021-12-01")[3:] for user in USERS])
    assert main(arguments) == 2 and "choose another, or replace it (--replace)" in capsys.readouterr().err
    assert main([*arguments, "--replace"]) == 0


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["--anchor", "9"], "Expected anchors from 0 to 1, got 9"),
    (["--output", "{uri}/tables/x"], "Expected an output outside the warehouse or a folder right in"),
    (["--output", "/proc/x"], "Could not write /proc/x"),
    (["--as-of", "2020-01-01"], "Expected a release on or before 2020-01-01"),
])
def test_mistakes(uri, capsys, arguments, sentence):
    assert main(["export", "--warehouse", uri, "--format", "npy", *(argument.format(uri=uri) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err and captured.err.count("\n") == 1 and captured.out == ""
