"""fit-interests on Spark: interests.processes processes of the same fit (lurm.interests)."""

from lurm.lineage import Context
from spark_jobs.distributed_training import train
from spark_jobs.session import job_main


def run(context: Context) -> dict:
    return train(context, "lurm.interests", context.config.interests)


if __name__ == "__main__":
    job_main("fit-interests")
