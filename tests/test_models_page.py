"""docs/models.md as it stands: every command, in the order of the page; the training alone is left to the tests of the pipeline."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from published import MODEL, day, publish_day, rows_of, stage_day

from lurm import cli, open_table, publication
from lurm.releases import releases
from lurm.store import Store

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
NEW, USERS = "model-new", [f"u{number:03d}" for number in range(300)]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Store:
    """demo/warehouse with a release and, of the same date, what the page's `lurm run` leaves: a candidate of another model; and labels.csv."""
    monkeypatch.chdir(tmp_path)
    store = Store(str(tmp_path / "demo" / "warehouse"))
    publish_day(store, "2022-01-01", USERS)
    turned = list(np.roll(open_table(store.uri).vectors(USERS), 1, axis=1))
    stage_day(store, "2022-01-01", [rows_of(USERS, vectors=turned)], "b" * 16, NEW)
    publication.run(day(store, "2022-01-01", "b" * 16, release=False))
    bought = np.random.default_rng(0).integers(0, 2, len(USERS))
    lines = [f"{user},{int(value)}" for user, value in zip(USERS, bought, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["user_id,bought", *lines]) + "\n", encoding="utf-8")
    return store


def test_every_command_of_the_page_does_what_it_says(desk, capsys):
    told, pointer = [], []
    for line in re.findall(r"^(lurm .*)$", "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)), re.MULTILINE):
        arguments = shlex.split(line, comments=True)[1:]
        if arguments[0] == "run":
            continue
        arguments = [MODEL if word.startswith("model-") else word for word in arguments]
        assert cli.main(arguments) == 0, line
        told.append((arguments[0], capsys.readouterr().out))
        pointer.append(open_table(desk.uri).model_id)
    assert [name for name, _ in told] == ["releases", "compare", "release", "rollback", "retire", "retire"]
    assert pointer == [MODEL, MODEL, NEW, MODEL, MODEL, MODEL] and len(releases(desk)) == 3
    assert NEW in told[0][1] and "bought" in told[1][1]
