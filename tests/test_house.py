"""The rules of the house, held by walking the code: who imports what, nothing unsafe, tests beside everything, pleasant files."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("lurm", "spark_jobs", "dags", "docker")
CODE = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERYTHING = [*CODE, *TESTS, *sorted((ROOT / "benchmarks").rglob("*.py"))]

# A door is the only place that knows a library: (library, files that may import it, whether inside functions only).
DOORS = (
    ("pyspark", ("spark_jobs/",), False),
    ("deltalake", ("lurm/objects.py", "lurm/store.py"), False),
    ("torch", ("lurm/item_encoder/", "lurm/smen/", "lurm/contrastive.py", "lurm/training.py", "lurm/report/", "lurm/evaluation/"), False),
    ("plotly", (), False),  # its script is read as a file
    ("numba", ("lurm/smen/loops.py", "lurm/smen/register_tiles.py", "lurm/smen/split_tiles.py", "lurm/vector_code.py", "lurm/matrix_unit.py",
               "lurm/compiled_loops.py", "lurm/flat_loops.py", "lurm/rough_loops.py", "lurm/rough_tiles.py",
               "lurm/byte_tiles.py", "lurm/row_loops.py"), False),
    ("numba", ("lurm/report/interest_map.py",), True),
    ("llvmlite", ("lurm/smen/register_tiles.py", "lurm/smen/split_tiles.py", "lurm/vector_code.py", "lurm/matrix_unit.py",
                  "lurm/rough_tiles.py", "lurm/byte_tiles.py"), False),
    ("triton", ("lurm/smen/triton_bags.py",), False),
    ("umap", ("lurm/report/interest_map.py",), True),
    ("torch", ("lurm/kmeans.py", "lurm/standing.py", "lurm/dealt_blocks.py", "spark_jobs/"), True),
    ("safetensors", ("lurm/training.py",), False),
    ("tokenizers", ("lurm/item_encoder/",), False),
    ("gensim", ("lurm/evaluation/baselines/word_vectors.py",), True),
    ("sklearn", ("lurm/evaluation/",), False),
    ("faiss", ("lurm/kmeans.py", "lurm/exporting/export_files.py", "spark_jobs/assign_interests.py"), True),
    ("scipy", ("lurm/bag_of_interests.py", "lurm/smen/batches.py", "lurm/smen/memory_anchor.py", "lurm/evaluation/"), False),
    ("scipy", ("lurm/alignment.py",), True),
    ("great_expectations", ("lurm/audit.py",), True),
    ("psutil", ("lurm/memory.py",), True),
    ("psutil", ("docker/standalone.py",), False),
    ("airflow", ("dags/",), False),
)
STAGES = ("lurm.item_encoder", "lurm.interests", "lurm.smen", "lurm.publication", "lurm.input_gate")
SHARED_BY_JOBS = {
    f"spark_jobs.{name}" for name in ("session", "class_archive", "tables", "missing_items", "distributed_training", "source_files")
}
# Modules whose tests lie in another file than their own.
TESTED_IN = {
    "dags/lurm_train.py": "tests/dags/test_lurm_daily.py", "dags/lurm_example_consumer.py": "tests/dags/test_lurm_daily.py",
    "docker/answers.py": "tests/docker/test_containers.py", "docker/sqlite/airflow_local_settings.py": "tests/docker/test_standalone.py",
    "lurm/checks.py": "tests/test_output_gate.py",
    "lurm/commands/backfilling.py": "tests/test_backfill.py",
    "lurm/joining/label_spill.py": "tests/joining/test_label_join.py", "lurm/joining/embedding_units.py": "tests/joining/test_label_join.py",
    "lurm/errors.py": "tests/test_cli.py", "lurm/schema.py": "tests/test_staging.py", "lurm/interest_space.py": "tests/test_interests.py",
    "lurm/smen/batches.py": "tests/smen/test_smen_model.py", "lurm/row_loops.py": "tests/test_row_sums.py",
    **{f"lurm/{name}.py": "tests/smen/test_loops.py" for name in ("smen/register_tiles", "vector_code")},
    **{f"lurm/commands/{name}.py": "tests/test_cli.py" for name in ("arguments", "running", "inspecting", "releasing", "reading", "demo")},
    "lurm/item_encoder/stage.py": "tests/test_pipeline_end_to_end.py",
    "lurm/item_encoder/inference.py": "tests/item_encoder/test_item_encoder_fitting.py",
    "spark_jobs/train_item_encoder.py": "tests/spark_jobs/test_distributed_training.py",
    "spark_jobs/fit_interests.py": "tests/spark_jobs/test_distributed_training.py",
    "spark_jobs/train_smen.py": "tests/spark_jobs/test_distributed_training.py",
}
ABOUT_ALL = {  # tests of no single module
    "tests/test_house.py", "tests/test_readme.py", "tests/test_pipeline_end_to_end.py", "tests/test_kill.py", "tests/docker/test_containers.py",
    "tests/test_faults.py", "tests/test_resurrection.py", "tests/test_processes.py", "tests/test_full_disk.py", "tests/report/test_in_browser.py",
    "tests/test_reading_doc.py", "tests/test_reader_alone.py", "tests/test_quickstart.py", "tests/test_models_page.py",
    "tests/test_operating_pages.py",
    "tests/cluster/test_object_store.py", "tests/cluster/test_spark_cluster.py", "tests/cluster/test_training_processes.py",
    "tests/cluster/test_collected_rows.py", "tests/cluster/test_whole_runs.py", "tests/cluster/test_fit_processes.py", "tests/test_benchmarks.py",
    "tests/test_measuring_pages.py",
    "tests/test_readme_commands.py",
}
HELPERS = {"tests/conftest.py", "tests/published.py", "tests/moments.py", "tests/small_pipeline.py", "tests/dags/airflow_process.py",
           "tests/faults.py", "tests/publishing_process.py", "tests/erasable.py", "tests/two_processes.py", "tests/small_release.py",
           "tests/report/conftest.py", "tests/planted_directions.py", "tests/small_evaluation.py", "tests/cluster/object_store.py",
           "tests/cluster/spark_cluster.py", "tests/cluster/driving_process.py", "tests/evaluation/baselines/conftest.py",
           "tests/small_commands.py", "tests/cluster/cluster_run.py", "tests/process_family.py", "tests/thinned.py"}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def module_of(file: Path) -> str:
    return name_of(file).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports_of(file: Path) -> list[tuple[str, bool]]:
    """Every module a file imports, in full (`from lurm import x` counts as lurm.x too), and whether the import waits inside a function."""
    found = []

    def walk(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name_of(file)} imports relatively; write the whole name"
                found.append((child.module, inside))
                found.extend((f"{child.module}.{alias.name}", inside) for alias in child.names)
            walk(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    walk(tree_of(file), False)
    return found


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("library", sorted({library for library, *_ in DOORS}))
def test_each_library_has_its_doors(library):
    for file in CODE:
        for module, inside in imports_of(file):
            if within(module, library):
                allowed = [lazy for door, places, lazy in DOORS if door == library and name_of(file).startswith(places)]
                assert allowed, f"{name_of(file)} imports {module}"
                assert inside or not all(allowed), f"{name_of(file)} imports {module} at the top; import it where it is used"


def test_lurm_never_imports_a_spark_job():
    ours = [file for file in CODE if name_of(file).startswith("lurm/")]
    assert [(name_of(file), module) for file in ours for module, _ in imports_of(file) if within(module, "spark_jobs")] == []


def test_a_job_never_imports_another_job():
    jobs = {module_of(file) for file in CODE if name_of(file).startswith("spark_jobs/")} - SHARED_BY_JOBS - {"spark_jobs"}
    assert len(jobs) >= 6
    for file in CODE:
        if module_of(file) in jobs:
            assert [module for module, _ in imports_of(file) if module in jobs] == [], name_of(file)


def test_stages_never_import_each_other():
    for file in CODE:
        own = [stage for stage in STAGES if within(module_of(file), stage)]
        if own:
            others = [module for module, _ in imports_of(file) for stage in STAGES if stage not in own and within(module, stage)]
            assert others == [], f"{name_of(file)} imports {others}; stages share tables, not code"


def test_the_contract_of_layers_is_kept():
    """The same rules and the order of layers, in setup.cfg, where `make lint` reads them."""
    linter = Path(sys.executable).with_name("lint-imports")
    command = [linter, "--config", "setup.cfg", "--no-cache", "--no-logo"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout and "4 kept" in answer.stdout


def dotted(node: ast.AST) -> str:
    return f"{dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.mark.parametrize("file", EVERYTHING, ids=name_of)
def test_nothing_unsafe_and_nothing_left_undone(file):
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert [module for module, _ in imports_of(file) if module.partition(".")[0] in unsafe] == []
    for node in ast.walk(tree_of(file)):
        where = f"{name_of(file)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{where}: a bare except"
        if isinstance(node, ast.Call):
            given = [dotted(part.func) for part in node.args[:1] if isinstance(part, ast.Call)]
            reads = dotted(node.func) in {"pq.read_table", "pq.ParquetFile"} and "io.BytesIO" in given and file in CODE
            assert not reads, f"{where}: Arrow reads Python's file objects in threads that can abort the process at its end; use pa.BufferReader"
            assert dotted(node.func) not in {"torch.load", "torch.save", "joblib.load", "pandas.read_pickle", "pd.read_pickle"}, where
            for keyword in node.keywords:
                told = getattr(keyword.value, "value", None)
                assert not (keyword.arg == "allow_pickle" and told is not False), f"{where}: allow_pickle"
    undone = re.search(r"#.*\b(TO" r"DO|FIX" r"ME|X" r"XX)\b", file.read_text(encoding="utf-8"))
    assert undone is None, f"{name_of(file)}: {undone.group()}"


@pytest.mark.parametrize("file", [*CODE, *TESTS], ids=name_of)
def test_a_module_opens_with_what_it_is(file):
    opening = ast.get_docstring(tree_of(file))
    assert opening and opening.splitlines()[0].endswith((".", ":", ";", ",")), f"{name_of(file)} has no docstring that is a sentence"


@pytest.mark.parametrize("file", CODE, ids=name_of)
def test_pleasant_files(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 400, f"{name_of(file)} has {len(lines)} lines; find the second idea in it and name it"
    assert file.stem not in {"utils", "util", "helpers", "misc", "common"}, "a file is named for its noun"


def candidates(file: Path) -> list[str]:
    """Test files of a module: tests/<folder>/test_<module>.py, or with the package in the name where names would repeat."""
    folder = Path(name_of(file)).parent.relative_to("lurm") if name_of(file).startswith("lurm/") else Path(name_of(file)).parent
    return [str(Path("tests") / folder / name) for name in (f"test_{file.stem}.py", f"test_{file.parent.name}_{file.stem}.py")]


@pytest.mark.parametrize("file", [file for file in CODE if file.name != "__init__.py"], ids=name_of)
def test_every_module_has_its_tests(file):
    there = [name_of(test) for test in TESTS]
    assert any(name in there for name in [*candidates(file), TESTED_IN.get(name_of(file), "")]), f"expected one of {candidates(file)}"


def test_every_test_file_has_its_module():
    known = {name for file in CODE for name in candidates(file)} | ABOUT_ALL | HELPERS
    assert [name_of(test) for test in TESTS if name_of(test) not in known] == []


def test_test_files_have_names_of_their_own():
    names = [test.name for test in TESTS if test.name != "conftest.py"]
    assert len(names) == len(set(names)), "pytest imports them by name"


def test_the_walk_would_notice(tmp_path, monkeypatch):
    """Each of these lines is against a rule; the rules must say so."""
    bad = tmp_path / "lurm" / "smen" / "bad.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("import pickle\nfrom lurm import publication\n")
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "CODE", [bad])
    with pytest.raises(AssertionError):
        test_stages_never_import_each_other()
    with pytest.raises(AssertionError):
        test_nothing_unsafe_and_nothing_left_undone(bad)
    with pytest.raises(AssertionError):
        test_a_module_opens_with_what_it_is(bad)
    for line in ("x = np.load('f', allow_pickle=True)", "torch.load('f')", "try:\n    pass\nexcept:\n    pass", "x = 1  # TO" "DO later"):
        bad.write_text(line + "\n")
        tree_of.cache_clear()
        with pytest.raises(AssertionError):
            test_nothing_unsafe_and_nothing_left_undone(bad)
    bad.write_text("import torch\n")
    monkeypatch.setattr(sys.modules[__name__], "CODE", [bad.rename(tmp_path / "lurm" / "cli.py")])
    tree_of.cache_clear()
    with pytest.raises(AssertionError):
        test_each_library_has_its_doors("torch")
