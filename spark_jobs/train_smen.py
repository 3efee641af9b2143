"""train-smen on Spark: smen.processes processes of the same training (lurm.smen.stage)."""

from lurm.lineage import Context
from spark_jobs.distributed_training import train
from spark_jobs.session import job_main


def run(context: Context) -> dict:
    return train(context, "lurm.smen.stage", context.config.smen)


if __name__ == "__main__":
    job_main("train-smen")
