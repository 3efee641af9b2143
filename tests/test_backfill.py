"""Backfill: the plan says what is there and what is missing; dates are those of separate runs; a kill costs no finished date."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from published import rows_of, stage_day
from small_pipeline import (
    PINNED_STAGES,
    SMALL,
    contents,
    copy_chain,
    make_context,
    plant_bags,
    plant_interests,
    plant_model,
    plant_row,
    plant_year_bags,
    run,
    source_overrides,
    versions,
    write_events,
)

from lurm import backfill as module
from lurm import publication
from lurm.backfill import DONE, FAILED_DATE, MISSING, TO_DO, PlannedDate, backfill, dates_between, missing, models_for, plan, resume
from lurm.cli import main
from lurm.config import load_config
from lurm.errors import ConfigError, MissingInputError
from lurm.ingredients import ingredients
from lurm.lineage import Context
from lurm.manifest import Manifest
from lurm.releases import releases, rollback
from lurm.runs import last_runs, new_record, read_run
from lurm.schema import BAGS, EVENTS
from lurm.store import Store


@pytest.mark.parametrize(("first", "last", "every", "dates"), [
    ("2021-01-01", "2021-01-03", "day", ["2021-01-01", "2021-01-02", "2021-01-03"]),
    ("2021-02-27", "2021-03-01", "day", ["2021-02-27", "2021-02-28", "2021-03-01"]),
    ("2021-01-01", "2021-01-15", "week", ["2021-01-01", "2021-01-08", "2021-01-15"]),
    ("2021-01-01", "2021-01-14", "week", ["2021-01-01", "2021-01-08"]),
    ("2020-11-01", "2021-02-01", "month", ["2020-11-01", "2020-12-01", "2021-01-01", "2021-02-01"]),
    ("2020-01-31", "2020-05-30", "month", ["2020-01-31", "2020-02-29", "2020-03-31", "2020-04-30"]),
    ("2021-01-15", "2021-03-14", "month", ["2021-01-15", "2021-02-15"]),
    ("2021-01-01", "2021-01-01", "month", ["2021-01-01"]),
])
def test_dates_from_one_to_another_both_included(first, last, every, dates):
    assert dates_between(first, last, every) == dates


def test_dates_the_wrong_way_round():
    with pytest.raises(ConfigError, match="Expected --to on or after --from, got --from 2021-02-01 --to 2021-01-01"):
        dates_between("2021-02-01", "2021-01-01", "day")


# ---- the plan, on warehouses made by hand ---------------------------------------------------------------------------------------------------


def stage(store: Store, as_of: str, users: list[str], model_id: str = "planted", *overrides: str) -> Context:
    """Leave what embed-users leaves: the run key is that of the bags, and the manifest says what the date is made of."""
    context = Context(store, load_config(None, overrides), as_of, model_id)
    manifest = stage_day(store, as_of, [rows_of(users, as_of)], context.embed_key(), model_id)
    store.write_manifest(dataclasses.replace(manifest, inputs={**manifest.inputs, "ingredients": ingredients(context)}))
    return dataclasses.replace(context, pins={})


def publish(store: Store, as_of: str, users: list[str], model_id: str = "planted", *overrides: str) -> None:
    publication.run(stage(store, as_of, users, model_id, *overrides))


@pytest.fixture
def store(tmp_path) -> Store:
    """Three months of events, counted; a model that was trained long before; 2021-02-01 released from what there is."""
    store = Store(str(tmp_path / "warehouse"))
    plant_model(store)
    plant_interests(store, {"a": 1})
    for month in ("2021-01", "2021-02", "2021-03"):
        plant_row(store, EVENTS.name, f"log{month}", {"month": month}, month)
    for month, end in (("2021-01", "2021-02-01"), ("2021-02", "2021-03-01")):
        plant_bags(store, month, end)
    plant_year_bags(store, "2021-02-01")
    publish(store, "2021-02-01", ["u1", "u2"])
    store.commit(Manifest(BAGS.name, "dropped", (), ({"scale": "year"},)))
    plant_year_bags(store, "2021-03-01")  # and the year that was open on 2021-02-01 is gone
    return store


def base(store: Store, *overrides: str, **more) -> Context:
    return Context(store, load_config(None, overrides), "", **more)


def planned(store: Store, *dates: str, model: str = "planted", **more) -> dict[str, PlannedDate]:
    days = plan(base(store, **more), models_for(store, dates, model))
    assert [day.as_of for day in days] == sorted(dates)
    return {day.as_of: day for day in days}


def test_the_plan_says_what_each_date_has_and_why_it_is_done_or_not(store):
    before = versions(store)
    days = planned(store, "2021-04-01", "2021-01-01", "2021-02-01", "2021-03-01")
    assert {as_of: (day.status, day.why) for as_of, day in days.items()} == {
        "2021-01-01": (MISSING, "no event before this date"),
        "2021-02-01": (DONE, "released, from the events as they are"),
        "2021-03-01": (TO_DO, "not released"),
        "2021-04-01": (TO_DO, "not released"),
    }
    assert days["2021-02-01"].there == "release 1, planted" and days["2021-03-01"].there == "nothing"
    assert {day.trained_as_of for day in days.values()} == {"2000-01-01"} and [day.as_of for day in missing(days.values())] == ["2021-01-01"]
    assert versions(store) == before and not store.exists("runs"), "planning writes nothing"


def test_late_events_make_a_date_stale_before_and_after_they_are_counted(store):
    plant_row(store, EVENTS.name, "late", {"month": "2021-01"}, "late")
    day = planned(store, "2021-02-01")["2021-02-01"]
    assert (day.status, day.why) == (TO_DO, "released, but 1 months have other events than were counted, first 2021-01")
    plant_bags(store, "2021-01", "2021-02-01", "other")
    day = planned(store, "2021-02-01")["2021-02-01"]
    assert (day.status, day.why) == (TO_DO, "released, but closed months have other events now")


def test_what_a_release_was_made_of_is_asked_also_in_the_middle_of_a_month(store):
    plant_bags(store, "2021-03", "2021-03-15")
    plant_year_bags(store, "2021-03-15")
    publish(store, "2021-03-15", ["u1"])
    assert planned(store, "2021-03-15")["2021-03-15"].status == DONE
    plant_row(store, EVENTS.name, "april", {"month": "2021-04"})
    plant_bags(store, "2021-03", "2021-04-01")
    store.commit(Manifest(BAGS.name, "gone", (), ({"until": "2021-03-15"},)))  # counted to its end, the month is no longer open
    assert planned(store, "2021-03-15")["2021-03-15"].status == DONE, "the counts of the open month are gone, its events are the same"
    plant_row(store, EVENTS.name, "more", {"month": "2021-03"}, "more")
    plant_bags(store, "2021-03", "2021-04-01", "more")
    day = planned(store, "2021-03-15")["2021-03-15"]
    assert (day.status, day.why) == (TO_DO, "released, but 2021-03 has other events now, which may lie after the date")


def test_a_release_of_which_nobody_kept_what_it_was_made_of_is_counted_again(store):
    run_key = releases(store)[0]["run_key"]
    manifest = store.read_manifest("user_embeddings", run_key)
    store.write_manifest(dataclasses.replace(manifest, inputs={"bags": 1}))
    day = planned(store, "2021-02-01")["2021-02-01"]
    assert (day.status, day.why, day.run_key) == (TO_DO, "released, but nobody kept what it was made of", run_key)


def test_staged_but_not_published_and_another_model(store):
    stage(store, "2021-03-01", ["u1"])
    assert planned(store, "2021-03-01")["2021-03-01"].why == "embedded, not published"
    plant_model(store, "other")
    day = planned(store, "2021-02-01", model="other")["2021-02-01"]
    assert (day.status, day.why, day.there) == (TO_DO, "released by another model", "release 1, planted")


def test_a_date_that_is_committed_is_done_where_nothing_is_released(store):
    context = stage(store, "2021-03-01", ["u1"], "planted", "publish.release=false")
    publication.run(context)
    assert plan(dataclasses.replace(context, pins={}), {"2021-03-01": "planted"})[0].status == DONE
    assert planned(store, "2021-03-01")["2021-03-01"].status == TO_DO


def test_a_model_trained_later_is_refused_unless_it_is_allowed(store):
    path = store.path("artifacts", "models", "planted", "info.json")
    told = json.loads(store.read_bytes(path))
    told["info"]["as_of"] = "2021-02-15"
    store.write_bytes(path, json.dumps(told).encode())
    days = planned(store, "2021-02-01", "2021-03-01")
    assert [day.status for day in days.values()] == [MISSING, TO_DO]
    assert days["2021-02-01"].why.startswith("the model has seen events up to 2021-02-15; name an older one") and days["2021-02-01"].seconds == 0
    assert [day.status for day in planned(store, "2021-02-01", "2021-03-01", allow_future_model=True).values()] == [DONE, TO_DO]


def test_released_gives_each_date_the_model_of_the_newest_release_before_it(store):
    plant_model(store, "later")
    publish(store, "2021-03-01", ["u1"], "later")
    models = models_for(store, ["2021-01-31", "2021-02-01", "2021-02-28", "2021-03-01", "2021-05-01"], "released")
    assert models == {"2021-01-31": None, "2021-02-01": "planted", "2021-02-28": "planted", "2021-03-01": "later", "2021-05-01": "later"}
    rollback(store)
    assert models_for(store, ["2021-02-28", "2021-03-01", "2021-05-01"], "released") == {
        "2021-02-28": "planted", "2021-03-01": "planted", "2021-05-01": "planted",
    }, "what was rolled back is not taken up again"
    day = planned(store, "2021-01-31", model="released")["2021-01-31"]
    assert (day.status, day.model_id, day.trained_as_of) == (MISSING, None, None) and "no release on or before this date" in day.why


def test_a_model_that_nobody_trained(store):
    with pytest.raises(MissingInputError, match="Expected model 'nosuch' in .*, found: planted; pass one of these to --model, or `released`"):
        models_for(store, ["2021-02-01"], "nosuch")


def test_a_released_model_that_is_gone(store):
    publish(store, "2021-03-01", ["u1"])
    for name in ("model.safetensors", "info.json"):
        path = Path(store.path("artifacts", "models", "planted", name))
        path.unlink(missing_ok=True)
    day = planned(store, "2021-03-01", model="released")["2021-03-01"]
    assert (day.status, day.why) == (MISSING, "its model planted is not in the warehouse; name another one with --model")


def test_before_the_log_was_read_nothing_can_be_called_missing(tmp_path):
    store = Store(str(tmp_path / "w"))
    plant_model(store)
    assert planned(store, "2021-02-01")["2021-02-01"].why == "the log has not been read yet"


def test_the_estimate_is_the_medians_of_past_runs(store):
    assert planned(store, "2021-03-01")["2021-03-01"].seconds is None
    for seconds in (1.0, 3.0, 50.0):
        record = new_record(store, "run", load_config(), "0.0")
        record["stages"] = {"embed-users": {"seconds": seconds}, "publish": {"seconds": 2.0}, "ingest": {"seconds": 1e6}}
        store.write_bytes(store.path("runs", f"{record['run_id']}.json"), json.dumps(record).encode())
    days = planned(store, "2021-02-01", "2021-03-01")
    assert days["2021-03-01"].seconds == 5.0, "3 + 2; the log is read once for all dates" and days["2021-02-01"].seconds == 0.0


def test_the_command_prints_the_plan_and_the_exit_code_says_whether_there_are_holes(store, capsys):
    arguments = ["backfill", "--warehouse", store.uri, "--dry-run", "--every", "month", "--model", "planted"]
    assert main([*arguments, "--from", "2021-02-01", "--to", "2021-04-01"]) == 0
    text = capsys.readouterr().out
    assert "3 dates: 1 done, 2 to do; estimated 0 s (no past run to estimate from)" in text and text.count("planted") == 4
    assert main([*arguments, "--from", "2021-01-01", "--to", "2021-02-01"]) == 1
    assert "2021-01-01  missing" in capsys.readouterr().out and not store.exists("runs")


@pytest.mark.parametrize(("arguments", "sentence"), [
    ([], "Expected --from and --to, got only one of them or none"), (["--from", "2021-01-01"], "Expected --from and --to"),
    (["--from", "2021-1-1", "--to", "2021-02-01"], "Expected --as-of as a date"),
    (["--from", "2021-03-01", "--to", "2021-02-01"], "Expected --to on or after --from"),
    (["--resume", "nosuch"], "Expected run 'nosuch'"), (["--resume", "x", "--model", "y"], "Expected --resume without --model"),
])
def test_mistakes_of_the_command(store, capsys, arguments, sentence):
    assert main(["backfill", "--warehouse", store.uri, *arguments]) == 2
    assert sentence in capsys.readouterr().err


# ---- going on ---------------------------------------------------------------------------------------------------------------------------------


def kept(store: Store, *overrides: str, **changes) -> str:
    """The record of a backfill that ended before all was done; returns its id."""
    days = [{"as_of": as_of, "model_id": "planted", "status": TO_DO, "why": ""} for as_of in ("2021-02-01", "2021-03-01")]
    record = {**new_record(store, "backfill", load_config(None, overrides), "0.0"), "status": "failed", "allow_future_model": False, "dates": days}
    record |= {"heartbeat_at": record["started_at"], **changes}
    store.write_bytes(store.path("runs", f"{record['run_id']}.json"), json.dumps(record).encode())
    return record["run_id"]


def test_a_resumed_backfill_has_the_dates_and_models_of_its_record(store):
    run_id = kept(store)
    record, models = resume(base(store), run_id)
    assert models == {"2021-02-01": "planted", "2021-03-01": "planted"} and record["run_id"] == run_id
    resume(base(store, "spark.master=local[7]", "smen.device=cpu", "service.price_per_core_hour=3"), run_id, ["2021-02-01", "2021-03-01"])


@pytest.mark.parametrize(("overrides", "changes", "more", "dates", "sentence"), [
    (["embed.batch_size=7"], {}, {}, None, "where embed.batch_size was 1024, got 7; use the same, or start a new backfill"),
    (["spark.user_buckets=3"], {}, {}, None, "where spark.user_buckets was 8, got 3"), (["seed=3"], {}, {}, None, "where seed was 17, got 3"),
    ([], {}, {}, ["2021-02-01"], "Expected the dates of run .* \\(2021-02-01 to 2021-03-01, 2 of them\\), got 1 from 2021-02-01"),
    ([], {}, {"allow_future_model": True}, None, "Expected --allow-future-model as run .* had it \\(False\\), got True"),
    ([], {"command": "run"}, {}, None, "Expected a backfill to resume, run .* is one of 'run'"),
])
def test_what_differs_from_the_record_is_refused(store, overrides, changes, more, dates, sentence):
    with pytest.raises(ConfigError, match=sentence):
        resume(base(store, *overrides, **more), kept(store, **changes), dates)


def test_a_backfill_that_still_goes_on_is_not_resumed(store):
    from datetime import UTC, datetime

    run_id = kept(store, status="running", heartbeat_at=datetime.now(UTC).isoformat())
    with pytest.raises(ConfigError, match="Expected a backfill that has stopped, run .* goes on in process"):
        resume(base(store), run_id)


# ---- for real -----------------------------------------------------------------------------------------------------------------------------------

DATES = ["2020-12-01", "2021-01-01", "2021-01-10"]
SETTINGS = (*SMALL, "gate.max_mean_shift=9")  # of so small a model, from the end of a month to the middle of the next, it is one half


@pytest.fixture(scope="module")
def separate(finished, world, spark, tmp_path_factory):
    """The three dates by three runs of their own, one after the other; and what a fourth, later one made readers follow."""
    folder = tmp_path_factory.mktemp("separate")
    for as_of in DATES:
        context = ready(finished, world, spark, folder, as_of)
        run(context, PINNED_STAGES)
    return context.store


def ready(finished, world, spark, folder, as_of: str = "") -> Context:
    context = make_context(folder, as_of, lambda: spark, *SETTINGS, *source_overrides(world), model_id=finished[0].trained_model_id())
    if not context.store.exists("artifacts"):
        copy_chain(finished[0], context.store)
    return context


class Killed(BaseException):
    """Nothing between here and the test can catch it: as little as a kill could be caught."""


def test_a_backfill_killed_between_two_dates_goes_on_and_equals_separate_runs(finished, world, spark, separate, tmp_path, monkeypatch, capsys):
    context = ready(finished, world, spark, tmp_path / "w")
    store, model_id = context.store, context.model_id
    context = dataclasses.replace(context, pins={}, model_id=None)
    models = models_for(store, DATES, model_id)
    ran, run_stages, kills = [], module.run_stages, [DATES[2]]

    def killed_at_the_third(context, names, *more):
        if "publish" in names and context.as_of in kills:
            kills.remove(context.as_of)
            raise Killed
        ran.append((context.as_of, list(names)))
        return run_stages(context, names, *more)

    monkeypatch.setattr(module, "run_stages", killed_at_the_third)
    with pytest.raises(Killed):
        backfill(context, plan(context, models))
    assert [row["as_of"] for row in releases(store)] == DATES[:2], "in ascending order"
    (record,) = [record for record in last_runs(store, 20) if record["command"] == "backfill"]
    assert [day["status"] for day in record["dates"]] == [DONE, DONE, TO_DO]
    finished_versions = versions(store)
    ran.clear()

    # The same through the command line, in this process and its session: nothing but the third date is done.
    settings = [part for override in (*SETTINGS, *source_overrides(world)) for part in ("--set", override)]
    assert main(["backfill", "--warehouse", store.uri, *settings, "--quiet", "--resume", record["run_id"]]) == 0
    text = capsys.readouterr().out
    assert "3 dates: 2 done, 1 to do" in text and text.rstrip().endswith("3 dates: 3 done")
    dates = [as_of for as_of, names in ran if "publish" in names]
    assert dates == [DATES[2]] and [names for _, names in ran if "ingest" in names] == [["ingest", "encode-items", "assign-interests"]]
    assert versions(store)["events"] == finished_versions["events"], "the log was not read again"
    record = read_run(store, record["run_id"])
    assert record["status"] == "done" and [day["status"] for day in record["dates"]] == [DONE] * 3
    children = [child for child in last_runs(store, 20) if child["parent"] == record["run_id"] and child["command"] == "backfill: date"]
    assert [child["as_of"] for child in children] == DATES and all(child["status"] == "done" for child in children)

    assert contents(store) == contents(separate), "byte for byte what three runs give"
    before = versions(store)
    assert [day.status for day in backfill(context, plan(context, models))] == [DONE] * 3 and versions(store) == before, "and again nothing"


def test_history_moves_no_reader_and_a_date_that_fails_stops_no_other(finished, world, spark, separate, tmp_path, monkeypatch, capsys):
    import shutil

    from lurm import open_table

    shutil.copytree(separate.uri, tmp_path / "w")
    context = dataclasses.replace(ready(finished, world, spark, tmp_path / "w"), pins={}, model_id=None)
    store, model_id = context.store, finished[0].trained_model_id()
    late = tmp_path / "log"
    shutil.copytree(world / "events", late / "events")
    december = next(row for row in pq.read_table(world / "events").to_pylist() if row["timestamp"].strftime("%Y-%m") == "2020-12")
    user, item = december["user_id"], december["item_id"]
    context = dataclasses.replace(context, config=load_config(None, [*SETTINGS, f"events.path={late}/events", f"items.path={world}/items"]))
    assert open_table(store.uri).as_of == DATES[2]
    write_events(late / "events" / "unknown.parquet", [(user, "i-unknown", "2020-12-20T00:00:00")])
    settled = backfill(context, plan(context, models_for(store, [DATES[1]], model_id)))
    assert settled[0].why == "released; counted again, nothing before the date has changed", "nobody knows the item of the late event"
    write_events(late / "events" / "late.parquet", [(user, item, "2020-12-20T00:00:00")])
    run_stages = module.run_stages

    def fails(context, names, *more):
        if context.as_of == DATES[1] and "publish" in names:
            raise MissingInputError("Expected much, got little, bring more.")
        return run_stages(context, names, *more)

    monkeypatch.setattr(module, "run_stages", fails)
    settled = backfill(context, plan(context, models_for(store, ["2020-01-01", *DATES[:2]], model_id)))
    assert [day.status for day in settled] == [MISSING, DONE, FAILED_DATE]
    assert settled[1].why == "released, from the events as they are", "late events of December change nothing before December"
    assert settled[2].why == "Expected much, got little, bring more."
    record = [one for one in last_runs(store, 20) if one["command"] == "backfill"][-1]
    assert record["status"] == "failed" and record["error"].startswith("2 of 3 dates are missing, first 2020-01-01: no event before")
    monkeypatch.undo()
    settled = backfill(context, plan(context, models_for(store, DATES[:2], model_id)))
    assert [day.status for day in settled] == [DONE, DONE] and "released now" in settled[1].why, "the late event is counted"
    assert open_table(store.uri).as_of == DATES[2] and open_table(store.uri, DATES[1]).as_of == DATES[1]
    assert [row["current"] for row in releases(store)] == [True] * 3 + [False], "history wakes nobody"


def test_a_model_from_the_future_says_so_wherever_the_table_is_read(finished, world, spark, separate, tmp_path, capsys):
    import shutil

    from lurm import open_table
    from lurm.schema import USER_EMBEDDINGS

    shutil.copytree(separate.uri, tmp_path / "w")
    context = ready(finished, world, spark, tmp_path / "w")
    store, model_id = context.store, context.model_id
    path = store.path("artifacts", "models", model_id, "info.json")
    told = json.loads(store.read_bytes(path))
    told["info"]["as_of"] = "2021-02-16"
    store.write_bytes(path, json.dumps(told).encode())
    settings = [part for override in (*SETTINGS, *source_overrides(world)) for part in ("--set", override)]
    arguments = ["backfill", "--warehouse", store.uri, *settings, "--quiet", "--from", "2020-11-01", "--to", "2020-11-01", "--model", model_id]
    assert main(arguments) == 1
    assert "the model has seen events up to 2021-02-16" in capsys.readouterr().out
    assert main([*arguments, "--allow-future-model"]) == 0
    capsys.readouterr()
    table = open_table(store.uri, "2020-11-01")
    assert (table.as_of, table.trained_as_of, table.future_model) == ("2020-11-01", "2021-02-16", True)
    assert not open_table(store.uri).future_model
    told = store.load(USER_EMBEDDINGS.name).history(1)[0]
    assert (told["trained_as_of"], told["future_model"]) == ("2021-02-16", "true")
    assert main(["releases", "--warehouse", store.uri]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "model trained later, before 2021-02-16" in lines[-1] and "trained later" not in lines[0]
    assert last_runs(store, 1)[0]["allow_future_model"] is True


def test_released_is_the_model_of_the_newest_release_before_the_date(store, tmp_path, capsys):
    from lurm.cli import _parser
    from lurm.commands.arguments import context_of

    def context(as_of):
        return context_of(_parser().parse_args(["embed-users", "--warehouse", store.uri, "--as-of", as_of, "--model", "released"]))

    assert context("2021-02-01").model_id == context("2021-06-01").model_id == "planted"
    with pytest.raises(MissingInputError, match="Expected a release on or before 2021-01-31 in .* whose model could be used, found none; train one"):
        context("2021-01-31")


def test_what_turns_a_models_vectors_has_seen_events_too(store):
    """A turn that was fitted on vectors of a later date is as much from the future as a model that was trained then."""
    info = {"info": {"alignment_id": "alignment-planted", "aligned_to": "model-old", "as_of": "2021-03-15"}}
    store.write_bytes(store.path("artifacts", "alignments", "planted", "info.json"), json.dumps(info).encode())
    days = planned(store, "2021-03-01", "2021-04-01")
    assert days["2021-03-01"].status == MISSING and days["2021-03-01"].why.startswith("the model has seen events up to 2021-03-15")
    assert days["2021-04-01"].status == TO_DO and days["2021-04-01"].trained_as_of == "2021-03-15"
    assert planned(store, "2021-03-01", allow_future_model=True)["2021-03-01"].status == TO_DO
