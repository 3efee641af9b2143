"""Trainings in two processes (gloo) that torchrun and Spark's TorchDistributor start: the loss of one process, and what a kill leaves.

A process that is killed ends the whole training with one sentence; the same call again goes on from the checkpoint and gives the bytes of a
training that nobody disturbed. That two processes learn what one learns, with dense and with sparse gradients, is also held step for step in
tests/smen and tests/item_encoder.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from process_family import family, process_of_rank, send
from small_pipeline import AS_OF, SMALL, make_context, run
from two_processes import run_two

from lurm.errors import InputError, LurmError
from lurm.store import Store
from lurm.training import load_tensors
from spark_jobs.distributed_training import failure

ROOT = Path(__file__).resolve().parents[2]
SLOW_ENOUGH = ("smen.max_steps=60", "smen.evaluate_every=20", "smen.checkpoint_every=2", "smen.sparse_gradients=on",
               "encoder.checkpoint_every=2")  # to be killed in between; the encoder's steps are part of its id, and stay
STAGES = {"train-smen": "models", "train-item-encoder": "encoders"}

# ---- with nothing but torch ------------------------------------------------------------------------------------------------------------

GATHERED = """
from lurm.contrastive import nt_xent
left, right = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ids = torch.tensor([0, 1, 2, 3, 0, 5, 6, 7]), torch.tensor([10, 11, 12, 13, 14, 10, 16, 17])
rank = dist.get_rank()
mine = left[rank::2].float().requires_grad_()
loss = nt_xent(mine, right[rank::2].float(), 0.2, ids[0][rank::2].clone(), ids[1][rank::2].clone())
loss.backward()
mean = loss.detach().clone(); dist.all_reduce(mean)
parts = [torch.empty_like(mine) for _ in range(2)]
dist.all_gather(parts, mine.grad)
whole = torch.empty(8, 5); whole[0::2], whole[1::2] = parts
weights, told = {"gradient": whole / 2, "loss": mean[None] / 2}, {}
"""


@pytest.mark.slow
def test_negatives_come_from_all_processes(tmp_path):
    """Loss and gradients of two halves are those of the whole batch; each half alone would have another loss."""
    from lurm.contrastive import nt_xent

    weights, _ = run_two(GATHERED, tmp_path, __file__)
    left, right = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    ids = torch.tensor([0, 1, 2, 3, 0, 5, 6, 7]), torch.tensor([10, 11, 12, 13, 14, 10, 16, 17])
    left.requires_grad_()
    loss = nt_xent(left, right, 0.2, *ids)
    loss.backward()
    assert weights["loss"].item() == pytest.approx(loss.item(), abs=1e-6)
    assert torch.allclose(weights["gradient"], left.grad, atol=1e-6)
    halves = [nt_xent(left[rank::2], right[rank::2], 0.2).item() for rank in range(2)]
    assert abs(np.mean(halves) - loss.item()) > 0.1


TABLE = """
from torch.nn import Embedding
from lurm.training import LoopSettings, fit
torch.manual_seed(0)
table = Embedding(100_000, 128, sparse=True)
touched = set()
def batches(start):
    for step in range(start, 3):
        rows = torch.randint(0, 100_000, (64,), generator=torch.Generator().manual_seed(step))
        touched.update(rows.tolist())
        yield rows[dist.get_rank()::2]
seen = []
def loss_of(rows):
    loss = (table(rows) ** 2).sum() / 32
    return loss
before = table.weight.detach().clone()
optimizer = torch.optim.SparseAdam([table.weight], lr=0.01)
step = optimizer.step
def counted():
    gradient = table.weight.grad
    seen.append([gradient.is_sparse, int(gradient.coalesce()._nnz())])
    step()
optimizer.step = counted
fit(table, [optimizer], batches, loss_of, directory={folder!r}, key="k", settings=LoopSettings(3, 99, 99, 99))
changed = (table.weight.detach() != before).any(dim=1).nonzero()[:, 0]
weights, told = {{"changed": changed}}, {{"seen": seen, "touched": len(touched), "same": sorted(touched) == changed.tolist()}}
"""


@pytest.mark.slow
def test_the_table_of_interests_has_sparse_gradients(tmp_path):
    """10^5 x 128 numbers: what two processes exchange, and what the optimizer touches, are the rows of the batch."""
    _, told = run_two(TABLE.format(folder=str(tmp_path / "table")), tmp_path, __file__)
    assert told["same"] and 180 < told["touched"] <= 192
    assert [sparse for sparse, _ in told["seen"]] == [True] * 3 and all(60 <= rows <= 64 for _, rows in told["seen"])


APART = """
import os
import test_training as own
from lurm.training import LoopSettings
steps = LoopSettings(max_steps=20, evaluate_every=10, patience=99, checkpoint_every=5)
mine = {folder!r} + "/" + str(dist.get_rank())
for fail_at in (7, 12):  # the second time process 1 has the checkpoint that it was given at the first resume, and process 0 a newer one
    try:
        own.train(mine, steps, fail_at=fail_at)
    except own.Interrupted:
        pass
line, history = own.train(mine, steps)
whole, _ = own.train({folder!r} + "/whole", steps)
weights = {{"slope": line.slope, "level": line.level.weight, "whole/slope": whole.slope, "whole/level": whole.level.weight}}
told = {{"resumed_at": history.resumed_at, "losses": len(history.losses)}}
"""


@pytest.mark.slow
def test_processes_on_several_machines_go_on_from_one_checkpoint(tmp_path):
    """Only process 0 writes one, into a folder that process 1 does not see."""
    weights, told = run_two(APART.format(folder=str(tmp_path / "apart")), tmp_path, __file__)
    assert told == {"resumed_at": 10, "losses": 20}
    assert torch.equal(weights["slope"], weights["whole/slope"]) and torch.equal(weights["level"], weights["whole/level"])


def test_what_a_failed_training_says():
    own = "lurm.errors.InputError: Expected at least 2 users, found 1.\nlurm.errors.LurmError: Expected 2 processes, lost one."
    assert str(failure(f"Command failed\n{own}\n exitcode 2", 2)) == "Expected at least 2 users, found 1." and isinstance(failure(own, 2), InputError)
    killed = failure("Signal 9 (SIGKILL) received by PID 17", 2)
    assert type(killed) is LurmError and "Expected 2 training processes" in str(killed) and "SIGKILL" in str(killed)
    assert "one was lost" in str(failure("lurm.errors.LurmError: Expected 2 processes, lost one.", 2))
    assert failure("ZeroDivisionError: division by zero", 2) is None


# ---- the stages ------------------------------------------------------------------------------------------------------------------------


def copy_of(finished, folder: Path) -> Path:
    """A warehouse in which everything is there but the encoders and models."""
    shutil.copytree(finished[0].store.root, folder, ignore=shutil.ignore_patterns("models", "lease", "runs", "work"))
    return folder


class Torchrun:
    """`torchrun -m lurm.cli STAGE` with two processes."""

    def __init__(self, warehouse: Path, stage: str, overrides):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lurm.cli", stage,
                   "--warehouse", str(warehouse), "--as-of", AS_OF]
        command += [part for override in overrides for part in ("--set", override)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=warehouse.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True)
        self.reader.start()

    def end(self, seconds: float = 180.0) -> tuple[int, str]:
        try:
            status = self.process.wait(seconds)
        finally:
            send(family(self.process.pid) if self.process.poll() is None else [], signal.SIGKILL)
        self.reader.join(10)
        return status, "".join(self.lines)


def kill_rank(parent: int, rank: int, warehouse: Path, seconds: float = 120.0) -> None:
    """SIGKILL to one process of a training, once there is a checkpoint of it."""
    end = time.monotonic() + seconds
    while not list(warehouse.glob("work/*/checkpoint/checkpoint/info.json")):
        assert time.monotonic() < end
        time.sleep(0.01)
    process_of_rank(parent, rank).kill()


def trained(warehouse: Path, stage: str) -> tuple[str, dict]:
    """Name of the weights' file, a digest of its bytes, and what the artifact says of itself."""
    [folder] = [Path(Store(str(warehouse)).get_artifact(STAGES[stage], name)) for name in Store(str(warehouse)).list_artifacts(STAGES[stage])]
    [weights] = folder.glob("tensors-*.safetensors")
    return weights.name, load_tensors(folder)[1]


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory) -> Path:
    """A warehouse in which two processes have trained SMEN."""
    warehouse = copy_of(finished, tmp_path_factory.mktemp("undisturbed") / "warehouse")
    status, printed = Torchrun(warehouse, "train-smen", [*SMALL, *SLOW_ENOUGH]).end()
    assert status == 0, printed[-3_000:]
    return warehouse


@pytest.mark.slow
@pytest.mark.long
def test_two_processes_of_torchrun_have_the_loss_of_one(undisturbed, finished, tmp_path):
    alone = make_context(copy_of(finished, tmp_path / "alone"), AS_OF, None, *SLOW_ENOUGH)
    run(alone, ["train-smen"])
    mine, ours = trained(tmp_path / "alone", "train-smen")[1], trained(undisturbed, "train-smen")[1]
    assert mine["model_id"] == ours["model_id"] and len(ours["history"]["losses"]) == 60
    assert ours["history"]["evaluations"] == pytest.approx(mine["history"]["evaluations"], abs=2e-3)
    assert len(ours["history"]["evaluations"]) == 4


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_torchrun_and_the_next_one_goes_on(undisturbed, finished, tmp_path, rank):
    warehouse = copy_of(finished, tmp_path / "warehouse")
    first = Torchrun(warehouse, "train-smen", [*SMALL, *SLOW_ENOUGH])
    kill_rank(first.process.pid, rank, warehouse)
    killed_at = time.monotonic()
    status, printed = first.end(60)
    assert status != 0 and time.monotonic() - killed_at < 45, "no process waits for the one that is gone"
    assert not Store(str(warehouse)).list_artifacts("models")
    status, printed = Torchrun(warehouse, "train-smen", [*SMALL, *SLOW_ENOUGH]).end()
    assert status == 0 and "Training resumes at step" in printed, printed[-3_000:]
    name, told = trained(warehouse, "train-smen")
    assert name == trained(undisturbed, "train-smen")[0], "the same bytes"
    assert told["history"]["resumed_at"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_process_ends_the_distributor_with_one_sentence(undisturbed, finished, spark, tmp_path):
    warehouse = copy_of(finished, tmp_path / "warehouse")
    context = make_context(warehouse, AS_OF, lambda: spark, *SLOW_ENOUGH, "smen.processes=2")
    killer = threading.Thread(target=kill_rank, args=(os.getpid(), 1, warehouse), daemon=True)
    killer.start()
    with pytest.raises(LurmError, match="Expected 2 training processes .*; .*run the stage again: it goes on from the last checkpoint.") as error:
        run(context, ["train-smen"])
    killer.join()
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    run(context, ["train-smen"])
    name, told = trained(warehouse, "train-smen")
    assert name == trained(undisturbed, "train-smen")[0] and told["history"]["resumed_at"] > 0


@pytest.mark.slow
@pytest.mark.long
def test_the_item_encoder_goes_on_too(finished, tmp_path):
    settings = [*SMALL, *SLOW_ENOUGH, "encoder.max_steps=60", "encoder.epochs=50", "encoder.patience=50"]
    whole, warehouse = copy_of(finished, tmp_path / "whole"), copy_of(finished, tmp_path / "warehouse")
    for folder in (whole, warehouse):
        shutil.rmtree(folder / "artifacts" / "encoders")
    status, printed = Torchrun(whole, "train-item-encoder", settings).end()
    assert status == 0, printed[-3_000:]
    first = Torchrun(warehouse, "train-item-encoder", settings)
    kill_rank(first.process.pid, 1, warehouse)
    assert first.end(60)[0] != 0
    status, printed = Torchrun(warehouse, "train-item-encoder", settings).end()
    assert status == 0 and "Training resumes at step" in printed, printed[-3_000:]
    assert trained(warehouse, "train-item-encoder")[0] == trained(whole, "train-item-encoder")[0]
