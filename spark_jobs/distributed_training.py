"""Starting several training processes with Spark's TorchDistributor: on the driver's machine in local mode, on executors elsewhere.

Every process runs the same stage; torch.distributed splits each batch between them and process 0 writes. Not a stage itself: the jobs
train_item_encoder and train_smen call it.
"""

import importlib
from dataclasses import replace

from lurm.lineage import Context


def train(context: Context, runner: str, settings) -> dict:
    """Run the module `runner` in settings.processes processes; returns what process 0 reports."""
    from pyspark.ml.torch.distributor import TorchDistributor

    spark = context.spark()
    local = spark.sparkContext.master.startswith("local")
    distributor = TorchDistributor(num_processes=settings.processes, local_mode=local, use_gpu=settings.device == "cuda")
    return distributor.run(_one_process, runner, replace(context, spark=None))


def _one_process(runner: str, context: Context) -> dict:
    return importlib.import_module(runner).run(context)
