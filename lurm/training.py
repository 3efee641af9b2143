"""The one training loop, with checkpoints that survive a kill, and the one format of saved tensors.

In: a torch module, its optimizers, batches numbered by step, a loss. Out: the module with its best weights, and a History.
Both models (item encoder and SMEN) are trained by `fit`: early stopping on an evaluation, resume from the exact step, averaged
gradients when torch.distributed is running. Nothing in the loop draws random numbers: a batch is a function of its step, so a
resumed training gives the same bytes on a CPU as an uninterrupted one.

A saved folder holds `tensors-<digest>.safetensors` and `info.json`, which names that file with its SHA-256 and is replaced last, in
one step. Whoever is killed in between leaves the previous pair untouched. Checkpoints are such folders too.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lurm.errors import CollapseError, ConfigError, LurmError, MissingInputError, StoreError

log = logging.getLogger("lurm")
SECONDS_BETWEEN_REPORTS = 5.0
INFO = "info.json"
SENT_BYTES = 64 << 20  # of a checkpoint at once, from process 0 to the others
LOST = re.compile(r"gloo|nccl|connection|broken pipe|timed? ?out", re.IGNORECASE)  # what torch says where another process is gone
Optimizers = list[torch.optim.Optimizer]
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LoopSettings:
    """When to look, to save and to stop, in optimizer steps."""

    max_steps: int
    evaluate_every: int
    patience: int  # evaluations without improvement before training stops
    checkpoint_every: int
    min_improvement: float = 1e-3  # relative to the best evaluation so far


@dataclass(frozen=True)
class History:
    """What happened. A step counts once its update is done; evaluation 0 is of the weights that came in."""

    steps: list[int] = field(default_factory=list)  # 1, 2, ...
    losses: list[float] = field(default_factory=list)  # of this process's batch at each step
    evaluation_steps: list[int] = field(default_factory=list)
    evaluations: list[float] = field(default_factory=list)  # lower is better
    best_step: int = 0  # whose weights the module holds at the end; the last step where nothing is evaluated
    stopped_early: bool = False
    resumed_at: int = 0
    seconds: float = 0.0  # interrupted runs included


def fit(
    module: torch.nn.Module,
    optimizers: Optimizers,
    batches: Callable[[int], Iterator],
    loss_of: Callable[[object], torch.Tensor],
    *,
    directory: Path,
    key: str,
    settings: LoopSettings,
    evaluate: Callable[[], float] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> History:
    """Train `module` in place and leave the best weights in it.

    batches(start_step) iterates over the batches of steps start_step, start_step + 1, ..., always the same ones; when it ends,
    training ends. loss_of(batch) is a scalar with gradients; evaluate() is called in eval mode without gradients. A checkpoint in
    `directory` is continued only when it was written under the same `key`; one that finished is not trained further. With
    torch.distributed every process calls fit with its own share of each batch and equally many batches; all go on from the checkpoint that
    process 0 finds, whether they share its directory or lie on other machines. Raises CollapseError when the loss is not finite.
    """
    directory, started = Path(directory) / "checkpoint", time.monotonic()
    _share_checkpoint(directory, next(module.parameters()).device)
    report = progress or (lambda step, loss: log.info("step %d of %d, loss %.4f", step, settings.max_steps, loss))
    history, best, finished = _resume(module, optimizers, directory, key)
    _agree(module, len(history.steps))
    seconds_before, step = history.seconds, len(history.steps)
    pending: list[torch.Tensor] = []  # losses still on the device: reading one waits for the GPU, so it is done seldom
    reported = started

    def look() -> None:
        nonlocal history, best
        value = _evaluate(module, evaluate)
        lowest = history.evaluations[history.evaluation_steps.index(history.best_step)] if history.evaluations else math.inf
        history.evaluation_steps.append(step)
        history.evaluations.append(value)
        if math.isinf(lowest) or value < lowest - settings.min_improvement * abs(lowest):
            best = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
            history = dataclasses.replace(history, best_step=step)

    module.train()
    if evaluate is not None and not history.evaluations:
        look()
    upcoming = iter(()) if finished or step >= settings.max_steps else iter(batches(step))
    while not finished:
        batch = next(upcoming, None)
        if batch is not None:
            pending.append(_update(module, optimizers, loss_of(batch)))
            step += 1
        finished = batch is None or step >= settings.max_steps
        if finished or step % settings.evaluate_every == 0 or step % settings.checkpoint_every == 0:
            _record(history, pending)
        if evaluate is None:
            history = dataclasses.replace(history, best_step=step)
        elif (finished or step % settings.evaluate_every == 0) and history.evaluation_steps[-1] != step:
            look()
            exhausted = sum(1 for evaluated in history.evaluation_steps if evaluated > history.best_step) >= settings.patience
            history = dataclasses.replace(history, stopped_early=exhausted and not finished)
            finished = finished or exhausted
        history = dataclasses.replace(history, seconds=seconds_before + time.monotonic() - started)
        if finished or step % settings.checkpoint_every == 0:
            _write_checkpoint(module, optimizers, history, best, directory, key, finished)
        if pending and time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
            _record(history, pending)
            report(step, history.losses[-1])
            reported = time.monotonic()
    if best is not None:
        module.load_state_dict(best)
    module.eval()
    return history


def choose_device(setting: str) -> torch.device:
    """`auto` is the GPU when there is one; `cpu` and `cuda` are taken at their word."""
    if setting not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"Setting 'device' expects auto, cpu or cuda, got {setting!r}; mend its value.")
    if setting == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Setting 'device' asks for 'cuda' but torch finds no GPU; set device to auto or cpu.")
    return torch.device("cuda" if setting != "cpu" and torch.cuda.is_available() else "cpu")


@contextmanager
def process_group() -> Iterator[bool]:
    """Join the other processes where torchrun or Spark's TorchDistributor started several; yields whether this one writes results.

    Raises LurmError in a process that waits for another one which is gone.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield not dist.is_initialized() or dist.get_rank() == 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank() == 0
        dist.barrier()  # nobody goes on before the results are written
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        raise LurmError(f"Expected {dist.get_world_size()} training processes to work together, process {dist.get_rank()} lost another one; run "
                        "the stage again, it goes on from the last checkpoint.") from None
    finally:
        dist.destroy_process_group()


def choose_precision(setting: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 (autocast) on a GPU that knows it and float32 elsewhere; weights and losses are float32 in both cases."""
    if setting not in ("auto", "float32", "bfloat16"):
        raise ConfigError(f"Setting 'precision' expects auto, float32 or bfloat16, got {setting!r}; mend its value.")
    if setting == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, setting)


def autocast(device: torch.device, precision: torch.dtype) -> torch.autocast:
    """The context in which a model runs at `precision` (from choose_precision); does nothing for float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision is torch.bfloat16)


def save_tensors(directory: Path, tensors: Weights, info: dict) -> None:
    """Write tensors (any device) and `info` (plain data for JSON) to a folder, replacing what it held in one step."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / f"unfinished-{os.getpid()}.safetensors"
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, unfinished)
    digest = _sha256(unfinished)
    data = directory / f"tensors-{digest[:16]}.safetensors"
    os.replace(unfinished, data)  # named by its content: it never overwrites what the present info.json points at
    text = json.dumps({"info": info, "file": data.name, "sha256": digest}, indent=1, sort_keys=True)
    unfinished = directory / f"unfinished-{os.getpid()}.json"
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, directory / INFO)
    for stale in directory.iterdir():
        if stale.name not in (data.name, INFO) and stale.name.startswith(("tensors-", "unfinished-")):
            stale.unlink(missing_ok=True)


def load_tensors(directory: Path) -> tuple[Weights, dict]:
    """Read what `save_tensors` wrote, on the CPU; raises StoreError when it does not match its SHA-256."""
    directory = Path(directory)
    try:
        manifest = json.loads((directory / INFO).read_text(encoding="utf-8"))
        data = directory / manifest["file"]
        if _sha256(data) == manifest["sha256"]:
            return load_file(data), manifest["info"]
        fault = f"the SHA-256 of {data.name} differs"
    except FileNotFoundError as error:
        if Path(error.filename).name == INFO:
            raise MissingInputError(f"Expected a saved model in {str(directory)!r}, found none; run its training stage first.") from None
        fault = f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        fault = str(error).splitlines()[0]
    raise StoreError(f"Expected intact tensors in {str(directory)!r}, but {fault}; delete the folder and run its stage again.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(history: History, pending: list[torch.Tensor]) -> None:
    for loss in pending:
        history.losses.append(float(loss))
        history.steps.append(len(history.losses))
        if not math.isfinite(history.losses[-1]):
            came = f"got {history.losses[-1]} at step {history.steps[-1]}"
            raise CollapseError(f"Expected a finite loss, {came}; lower learning_rate or set precision to float32, then train again.")
    pending.clear()


def _update(module: torch.nn.Module, optimizers: Optimizers, loss: torch.Tensor) -> torch.Tensor:
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if _world() > 1:
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = _mean_gradient(parameter)
    for optimizer in optimizers:
        optimizer.step()
    return loss.detach()


def _mean_gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    sparse = gradient.is_sparse
    if sparse and gradient.device.type != "cpu":
        gradient = gradient.to_dense()  # NCCL has no sparse reduction
    gradient = gradient.coalesce() if gradient.is_sparse else gradient.contiguous()
    dist.all_reduce(gradient)
    gradient = gradient / _world()
    return gradient.to_sparse(1) if sparse and not gradient.is_sparse else gradient


def _evaluate(module: torch.nn.Module, evaluate: Callable[[], float]) -> float:
    module.eval()
    with torch.no_grad():
        value = torch.tensor(float(evaluate()), dtype=torch.float64)
    module.train()
    if _world() > 1:  # every process must take the same decision to stop
        value = value.to(next(module.parameters()).device)
        dist.all_reduce(value)
    return float(value) / _world()


def _agree(module: torch.nn.Module, step: int) -> None:
    if _world() == 1:
        return
    steps = torch.tensor([step, -step], device=next(module.parameters()).device)
    dist.all_reduce(steps, op=dist.ReduceOp.MAX)
    if int(steps[0]) != -int(steps[1]):
        came = f"got steps {-int(steps[1])} and {int(steps[0])}"
        raise StoreError(f"Expected every process to resume at the same step, {came}; delete the training's folder and run its stage again.")
    for tensor in module.state_dict().values():
        dist.broadcast(tensor, 0)


def _share_checkpoint(directory: Path, device: torch.device) -> None:
    """Give every process the checkpoint of process 0: on other machines there may be none, or an older one."""
    if _world() == 1:
        return
    directory.mkdir(parents=True, exist_ok=True)
    info = directory / INFO
    mine = info.read_bytes() if info.exists() else b""
    first = _sent(mine, device)
    differs = torch.tensor([int(first != mine)], device=device)
    dist.all_reduce(differs, op=dist.ReduceOp.MAX)
    if not int(differs):
        return
    receives = dist.get_rank() != 0 and first != mine
    received, blocks = directory / f"unfinished-{os.getpid()}.received", _blocks(directory, first)
    with open(received, "wb") if receives else nullcontext() as file:
        while block := _sent(next(blocks, b"") if dist.get_rank() == 0 else b"", device):
            if receives:
                file.write(block)
    if receives and received.stat().st_size:
        os.replace(received, directory / json.loads(first)["file"])
        info.write_bytes(first)
    elif receives:
        received.unlink()
        info.unlink(missing_ok=True)


def _blocks(directory: Path, info: bytes) -> Iterator[bytes]:
    """The tensors that a checkpoint names; nothing where there is none, or it is damaged."""
    try:
        with open(directory / json.loads(info or b"{}")["file"], "rb") as file:
            while block := file.read(SENT_BYTES):
                yield block
    except (ValueError, KeyError, OSError):
        return


def _sent(data: bytes, device: torch.device) -> bytes:
    """What process 0 calls this with, in every process."""
    size = torch.tensor([len(data)], device=device)
    dist.broadcast(size, 0)
    if not int(size):
        return b""
    block = torch.empty(int(size), dtype=torch.uint8, device=device)
    if dist.get_rank() == 0:
        block.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(block, 0)
    return block.cpu().numpy().tobytes()


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _write_checkpoint(
    module: torch.nn.Module, optimizers: Optimizers, history: History, best: Weights | None, directory: Path, key: str, finished: bool
) -> None:
    if _world() > 1 and dist.get_rank() != 0:
        return
    tensors = {f"weights/{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    numbers: dict[str, float] = {}  # SparseAdam counts its steps in a plain number, Adam in a tensor
    for index, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                target = tensors if isinstance(value, torch.Tensor) else numbers
                target[f"optimizer/{index}/{parameter}/{name}"] = value
    history = dataclasses.replace(history, steps=[], resumed_at=0)  # steps are 1..n: the losses say how many
    save_tensors(directory, tensors, {"key": key, "finished": finished, "history": dataclasses.asdict(history), "numbers": numbers})


def _resume(module: torch.nn.Module, optimizers: Optimizers, directory: Path, key: str) -> tuple[History, Weights | None, bool]:
    """Load a checkpoint of the same key into module and optimizers: its history, best weights, and whether training had finished."""
    try:
        tensors, info = load_tensors(directory)
    except MissingInputError:
        return History(), None, False
    except StoreError as error:
        log.warning("The checkpoint is damaged, so training starts over. %s", error)
        return History(), None, False
    if info.get("key") != key:
        log.info("The checkpoint in %s belongs to other settings or data; training starts over.", directory)
        return History(), None, False
    module.load_state_dict(_below(tensors, "weights/"))
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict] = {}
        for path, value in (_below(tensors, f"optimizer/{index}/") | _below(info["numbers"], f"optimizer/{index}/")).items():
            parameter, name = path.split("/")
            state.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    done = len(info["history"]["losses"])
    history = History(**info["history"] | {"steps": list(range(1, done + 1)), "resumed_at": done})
    log.info("Training resumes at step %d.", done)
    device = next(module.parameters()).device
    return history, {name: tensor.to(device) for name, tensor in _below(tensors, "best/").items()} or None, info["finished"]


def _below(named: dict, prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
