"""The stages as plain data: what each reads and writes, who runs it, and when.

The command line, the scheduler, the README and the tests all read this list; nothing here imports a stage. A runner is named, not
imported, so that the package never depends on Spark: `spark_jobs.ingest` is loaded only when the stage is run.
"""

from dataclasses import dataclass

SPARK, PYTHON = "spark", "python"
TRAIN, DAILY = "train", "daily"
RELEASED = "released"  # a model by its role: what it means for a date says lurm.releases.followed


@dataclass(frozen=True)
class Stage:
    """One idempotent step from tables to one table or one artifact."""

    name: str
    runner: str  # module with run(context) -> dict of figures
    engine: str  # spark: needs a session; python: runs in one process, or one per GPU
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    schedule: tuple[str, ...]
    summary: str


STAGES = (
    Stage("ingest", "spark_jobs.ingest", SPARK, ("the log", "the catalogue"), ("events", "items", "quarantine"), (TRAIN, DAILY),
          "read the log and the catalogue into clean, typed tables; rows that cannot be used are quarantined with the reason"),
    Stage("audit-inputs", "lurm.input_gate", PYTHON, ("events", "items", "quarantine"), ("audits",), (TRAIN, DAILY),
          "hold volume, clock, items and duplicates of what was ingested against what is usual; stop if it is certainly wrong"),
    Stage("build-pairs", "spark_jobs.build_pairs", SPARK, ("events", "items"), ("item_pairs", "seen_items"), (TRAIN,),
          "sample positive pairs of items, fairly over users"),
    Stage("train-item-encoder", "lurm.item_encoder.stage", PYTHON, ("item_pairs", "seen_items"), ("artifacts/encoders",), (TRAIN,),
          "learn tokenizer, word vectors and encoder from the pairs"),
    Stage("encode-items", "spark_jobs.encode_items", SPARK, ("items", "artifacts/encoders"), ("item_embeddings",), (TRAIN, DAILY),
          "embed the titles that this encoder has not embedded yet"),
    Stage("fit-interests", "lurm.interests", PYTHON, ("item_embeddings", "seen_items"), ("artifacts/spaces",), (TRAIN,),
          "cluster a sample of the item embeddings into interests"),
    Stage("assign-interests", "spark_jobs.assign_interests", SPARK, ("item_embeddings", "artifacts/spaces"), ("item_interests",),
          (TRAIN, DAILY), "give every item its nearest interest"),
    Stage("build-bags", "spark_jobs.build_bags", SPARK, ("events", "item_interests"), ("bags",), (TRAIN, DAILY),
          "count the interests of every user, by month and by year; only periods that changed"),
    Stage("train-smen", "lurm.smen.stage", PYTHON, ("bags", "artifacts/spaces"), ("artifacts/models",), (TRAIN,),
          "learn SMEN from pairs of windows of one life"),
    Stage("update-states", "spark_jobs.update_states", SPARK, ("bags", "artifacts/models"), ("user_states",), (TRAIN, DAILY),
          "take the GRU of every user over the months that have closed; only who changed is folded again"),
    Stage("embed-users", "spark_jobs.embed_users", SPARK, ("bags", "user_states", "artifacts/models"), ("staged user_embeddings",), (TRAIN, DAILY),
          "embed every user with an event before as_of; files are staged, no reader sees them"),
    Stage("publish", "lurm.publication", PYTHON, ("staged user_embeddings",), ("user_embeddings", "releases"), (TRAIN, DAILY),
          "audit the staged files, commit them at once, move the release pointer"),
)

BY_NAME = {stage.name: stage for stage in STAGES}
