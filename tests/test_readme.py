"""The README keeps its word: its Python runs, its commands parse, its settings and files exist."""

import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
from published import day, rows_of, stage_day

from lurm import publication
from lurm.cli import _parser
from lurm.config import load_config
from lurm.store import Store

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
RUNBOOK = ROOT / "docs" / "runbook.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands(pages=PAGES) -> list[str]:
    """Lines of bash blocks, continuations joined, comments and the prompt left out."""
    found = []
    for page in pages:
        for block in re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.removeprefix("$ ").strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return found


def lurm_arguments(line: str) -> list[str] | None:
    """Arguments of a lurm command, also behind a path or `python -m lurm.cli`; None for other commands."""
    words = shlex.split(line, comments=True)
    words = words[next((place for place, word in enumerate(words) if "=" not in word), 0) :]  # variables before the command
    if words and Path(words[0]).name == "lurm":
        return words[1:]
    return words[3:] if len(words) > 3 and words[1:3] == ["-m", "lurm.cli"] else None


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A folder with what `make demo` leaves: demo/warehouse with users of the synthetic world, 10 anchors x 128 numbers."""
    folder = tmp_path_factory.mktemp("readme")
    store = Store(str(folder / "demo" / "warehouse"))
    users = [f"u{number:07d}" for number in range(50)]
    for as_of, key in (("2021-12-01", "1" * 16), ("2022-01-01", "2" * 16)):
        vectors = list(np.random.default_rng(1).standard_normal((50, 1_280)).astype(np.float32))
        stage_day(store, as_of, [rows_of(users, vectors=vectors)], key, n_anchors=10, dim=128)
        publication.run(day(store, as_of, key))
    return folder


def test_python_blocks_run_in_the_order_of_the_page(demo, monkeypatch):
    monkeypatch.chdir(demo)
    assert blocks("python"), "the README shows how to read the table"
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)  # our own page, nothing else
    assert names["vectors"].shape[1] == 1_280 and names["vectors"].dtype == np.float32


def test_lurm_commands_parse():
    lines = [line for line in commands() if lurm_arguments(line) is not None]
    assert any("lurm run" in line for line in lines) and any("lurm read" in line for line in lines)
    for line in lines:
        try:
            options = _parser().parse_args(lurm_arguments(line))
        except SystemExit:
            pytest.fail(f"lurm does not understand {line!r}")
        load_config(None, getattr(options, "overrides", []))


def test_a_wrong_command_would_be_noticed():
    assert lurm_arguments("LURM_SCRATCH=/x .venv/bin/lurm stages  # prints") == ["stages"]
    assert lurm_arguments("python -m lurm.cli stages") == ["stages"] and lurm_arguments("make demo") is None
    with pytest.raises(SystemExit):
        _parser().parse_args(lurm_arguments("lurm run --warehuose x"))


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    wanted = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert {"demo", "test"} <= wanted <= targets


def test_settings_named_in_the_text_exist():
    named = [override for page in PAGES for override in re.findall(r"--set ([a-z_]+\.[a-z_.]+=[^`\s]+)", page.read_text(encoding="utf-8"))]
    assert len(named) > 5
    for override in named:
        load_config(None, [override])


def test_the_runbook_explains_every_check_of_the_gates_once():
    from lurm.checks import BY_SECTION

    parts = RUNBOOK.read_text(encoding="utf-8").split("\n## ")
    for section, title in (("gate", "The quality gate"), ("input_gate", "The input gate")):
        (page,) = [part for part in parts if part.startswith(title)]
        for check in BY_SECTION[section]:
            assert page.count(f"`{check.name}`") == 1, f"{title} should explain {check.name}"


def test_toml_blocks_load(tmp_path):
    for number, block in enumerate(blocks("toml")):
        tomllib.loads(block)
        (tmp_path / f"{number}.toml").write_text(block, encoding="utf-8")
        load_config(str(tmp_path / f"{number}.toml"))


def test_links_and_files_exist():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_stages_of_the_table_are_those_of_the_pipeline():
    from lurm.pipeline import STAGES

    named = re.findall(r"^\| `([a-z-]+)` \|", README, re.MULTILINE)
    assert named == [stage.name for stage in STAGES]
