"""Two processes started by Spark's TorchDistributor train the model that one process trains, up to rounding."""

import numpy as np
from small_pipeline import make_context, run, source_overrides

from lurm.training import load_tensors


def test_two_processes_train_the_model_of_one(finished, world, spark, tmp_path):
    context, reports = finished
    alone, _ = load_tensors(context.store.get_artifact("models", context.trained_model_id()))

    two = make_context(tmp_path / "warehouse", context.as_of, lambda: spark, *source_overrides(world), "smen.processes=2")
    assert two.config.smen.processes == 2
    run(two, ["ingest", "build-pairs", "train-item-encoder", "encode-items", "fit-interests", "assign-interests", "build-bags"])
    report = run(two, ["train-smen"])["train-smen"]
    together, info = load_tensors(two.store.get_artifact("models", report["model_id"]))

    assert report["model_id"] == context.trained_model_id()  # how many processes is no part of what a model is
    assert len(info["history"]["losses"]) == reports["train-smen"]["steps"]
    for name, tensor in alone.items():
        np.testing.assert_allclose(together[name].numpy(), tensor.numpy(), atol=2e-4, err_msg=name)
