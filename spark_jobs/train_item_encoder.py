"""train-item-encoder on Spark: encoder.processes processes of the same training (lurm.item_encoder.stage)."""

from lurm.lineage import Context
from spark_jobs.distributed_training import train
from spark_jobs.session import job_main


def run(context: Context) -> dict:
    return train(context, "lurm.item_encoder.stage", context.config.encoder)


if __name__ == "__main__":
    job_main("train-item-encoder")
