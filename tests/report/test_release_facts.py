"""Facts of a release: what is kept is found, what is not is empty."""

import json
from types import SimpleNamespace

from published import day, rows_of, stage_day, vector
from small_release import AS_OF, N_USERS

from lurm.checks import OUTPUT_CHECKS
from lurm.config import Config
from lurm.releases import releases
from lurm.report.release_facts import NOT_JUDGED, PASSED, gather, inputs_report, run_of, table_sizes, verdicts, worst
from lurm.runner import run_stages
from lurm.runs import new_record, recorded
from lurm.store import Store


def test_the_gate_of_a_release(released):
    facts = gather(released)
    assert facts.figures["rows"] == N_USERS and [verdict.name for verdict in facts.verdicts] == [check.name for check in OUTPUT_CHECKS]
    by_name = {verdict.name: verdict for verdict in facts.verdicts}
    assert by_name["no_duplicate_users"].outcome == PASSED and by_name["lost_users"].outcome == NOT_JUDGED
    assert by_name["lost_users"].drift and not by_name["coverage"].drift
    assert facts.compared_with == "nothing: this is the first release" and facts.run is None and facts.inputs is None
    sizes = {size.name: size for size in facts.sizes}
    assert sizes["user_embeddings"].rows == N_USERS and sizes["bags"].files == 18 and sizes["bags"].bytes > 1_000 and "quarantine" not in sizes


def test_findings_keep_their_severity_and_their_limits():
    finding = {"name": "few_users_lost", "severity": "warn", "value": 0.02, "lowest": 0, "highest": 0.01, "meaning": "m", "contract": False}
    report = {"figures": {"lost_users": 0.02, "mean_shift": "nan"}, "findings": [finding], "left_out": ["vectors_differ"]}
    told = {verdict.name: verdict for verdict in verdicts(report, {"max_lost_users": 0.2})}
    assert (told["few_users_lost"].outcome, told["few_users_lost"].highest, told["few_users_lost"].value) == ("warn", 0.01, 0.02)
    assert (told["lost_users"].outcome, told["lost_users"].lowest, told["lost_users"].highest) == (PASSED, 0, 0.2)
    assert told["vectors_differ"].outcome == NOT_JUDGED and worst(list(told.values())) == "warn"
    assert verdicts({}, {}) == [] and worst([]) == NOT_JUDGED


def test_the_run_that_made_a_release_is_found(tmp_path):
    store = Store(str(tmp_path / "warehouse"))
    for as_of, key in (("2022-01-01", "a" * 16), ("2022-01-02", "b" * 16)):
        stage_day(store, as_of, [rows_of(["u1", "u2"], vectors=[vector("u1"), vector("u2")])], key)
        run_stages(day(store, as_of, key), ["publish"])
    for row in releases(store):
        record = run_of(store, SimpleNamespace(row=row))
        assert record["as_of"] == row["as_of"] and record["stages"]["publish"]["epoch"] == row["epoch"]
    assert run_of(store, SimpleNamespace(row={**row, "epoch": 99})) is None
    assert {size.name for size in table_sizes(store)} == {"user_embeddings", "releases"}


def test_the_report_on_the_inputs_of_the_date(tmp_path):
    store = Store(str(tmp_path))
    assert inputs_report(store, AS_OF) is None
    for place, as_of in enumerate(("2020-09-15", AS_OF)):
        text = json.dumps({"title": f"inputs before {as_of}", "findings": []})
        store.write_bytes(store.path("audits", f"inputs-{place}", "report.json"), text.encode())
    assert inputs_report(store, AS_OF)["title"] == f"inputs before {AS_OF}"
    with recorded(store, new_record(store, "run", Config(), "0")):
        pass
    assert run_of(store, SimpleNamespace(row={"epoch": 1, "model_id": "m"})) is None, "a run without a publish stage"
