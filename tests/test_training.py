"""The training loop on a line fit whose answer is known: it learns, stops, resumes to the same bytes, and survives damage."""

import json
import math

import numpy as np
import pytest
import torch

from lurm.errors import CollapseError, ConfigError, MissingInputError, StoreError
from lurm.training import LoopSettings, autocast, choose_device, choose_precision, fit, load_tensors, save_tensors

STEPS = LoopSettings(max_steps=12, evaluate_every=3, patience=100, checkpoint_every=4)


class Interrupted(Exception):
    pass


class Line(torch.nn.Module):
    """y = slope x + level[k]; `level` is a sparse embedding, so both kinds of gradient take part."""

    def __init__(self, start=0.0):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.tensor([start]))
        self.level = torch.nn.Embedding(5, 1, sparse=True)
        torch.nn.init.zeros_(self.level.weight)

    def loss(self, batch):
        x, k, y = batch
        return ((self.slope * x + self.level(k)[:, 0] - y) ** 2).mean()


def optimizers(line):
    return [torch.optim.Adam([line.slope], lr=0.1), torch.optim.SparseAdam([line.level.weight], lr=0.1)]


def batches(start, stop=10**9, fail_at=None):
    for step in range(start, stop):
        if step == fail_at:
            raise Interrupted
        rng = np.random.default_rng(step)
        x, k = torch.as_tensor(rng.normal(size=8), dtype=torch.float32), torch.as_tensor(rng.integers(0, 3, 8))
        yield x, k, 2 * x + k


def train(folder, settings=STEPS, key="a", **kwargs):
    line = Line()
    history = fit(line, optimizers(line), lambda start: batches(start, **kwargs), line.loss, directory=folder, key=key, settings=settings,
                  evaluate=lambda: float((line.slope - 2) ** 2))
    return line, history


def test_it_learns_and_tells_what_happened(tmp_path):
    line, history = train(tmp_path, LoopSettings(max_steps=100, evaluate_every=10, patience=100, checkpoint_every=50))
    assert line.slope.item() == pytest.approx(2, abs=0.15)
    assert history.steps == list(range(1, 101)) and len(history.losses) == 100
    assert history.evaluation_steps == list(range(0, 101, 10))
    assert history.evaluations[0] == pytest.approx(4)  # the untrained slope is 0
    assert history.resumed_at == 0 and not history.stopped_early and history.seconds > 0


@pytest.mark.parametrize("fail_at", [4, 6, 11])
def test_resumed_equals_uninterrupted_to_the_byte(tmp_path, fail_at):
    whole, expected = train(tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", fail_at=fail_at)
    resumed, history = train(tmp_path / "parts")
    assert history.resumed_at == fail_at // 4 * 4
    assert history.losses == expected.losses and history.evaluations == expected.evaluations and history.steps == expected.steps
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_a_finished_training_is_not_repeated(tmp_path):
    first, _ = train(tmp_path)
    again, history = train(tmp_path, fail_at=0)  # no batch is asked for
    assert history.resumed_at == 12 and torch.equal(first.slope, again.slope)


def test_another_key_starts_over(tmp_path):
    train(tmp_path, key="a")
    _, history = train(tmp_path, key="b")
    assert history.resumed_at == 0


def test_a_damaged_checkpoint_is_ignored_with_a_warning(tmp_path, caplog):
    expected, _ = train(tmp_path)
    (data,) = (tmp_path / "checkpoint").glob("*.safetensors")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    line, history = train(tmp_path)
    assert history.resumed_at == 0 and torch.equal(line.slope, expected.slope)
    assert "damaged" in caplog.text


def test_a_kill_between_data_and_manifest_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    """The manifest is replaced last: dying just before it keeps the old pair whole, and the next save clears the leftovers."""
    save_tensors(tmp_path, {"x": torch.zeros(3)}, {"step": 1})
    import lurm.training as training

    real = training.os.replace

    def dies_at_manifest(source, target):
        if str(target).endswith("info.json"):
            raise Interrupted
        real(source, target)

    monkeypatch.setattr(training.os, "replace", dies_at_manifest)
    with pytest.raises(Interrupted):
        save_tensors(tmp_path, {"x": torch.ones(3)}, {"step": 2})
    monkeypatch.undo()
    tensors, info = load_tensors(tmp_path)
    assert info == {"step": 1} and tensors["x"].sum() == 0
    save_tensors(tmp_path, {"x": torch.full((3,), 2.0)}, {"step": 3})
    assert load_tensors(tmp_path)[1] == {"step": 3} and len(list(tmp_path.iterdir())) == 2


def test_early_stopping_keeps_the_best_weights(tmp_path):
    """Evaluations 5, 3, 4, 4: the best is at step 2, and after two without improvement training stops at step 6."""
    line, values, slopes = Line(), iter([5.0, 3.0, 4.0, 4.0, 0.0]), []

    def evaluate():
        slopes.append(line.slope.item())
        return next(values)

    settings = LoopSettings(max_steps=100, evaluate_every=2, patience=2, checkpoint_every=50)
    history = fit(line, optimizers(line), batches, line.loss, directory=tmp_path, key="k", settings=settings, evaluate=evaluate)
    assert history.stopped_early and history.best_step == 2 and history.evaluation_steps == [0, 2, 4, 6]
    assert line.slope.item() == slopes[1] != slopes[-1]


def test_an_improvement_below_the_limit_does_not_count(tmp_path):
    line, values = Line(), iter([1.0, 0.9995, 0.9991, 0.0])
    settings = LoopSettings(max_steps=100, evaluate_every=1, patience=2, checkpoint_every=50)
    history = fit(line, optimizers(line), batches, line.loss, directory=tmp_path, key="k", settings=settings,
                  evaluate=lambda: next(values))
    assert history.stopped_early and history.best_step == 0


def test_the_end_of_the_data_ends_training(tmp_path):
    _, history = train(tmp_path, stop=5)
    assert history.steps[-1] == 5 and history.evaluation_steps[-1] == 5 and not history.stopped_early


def test_without_evaluation_the_last_weights_stay(tmp_path):
    line = Line()
    history = fit(line, optimizers(line), batches, line.loss, directory=tmp_path, key="k", settings=STEPS)
    assert history.best_step == 12 and history.evaluations == []


def test_a_loss_that_is_not_finite_is_a_collapse(tmp_path):
    line = Line(start=math.nan)
    with pytest.raises(CollapseError, match="finite loss, got nan at step 1; lower learning_rate"):
        fit(line, optimizers(line), batches, line.loss, directory=tmp_path, key="k", settings=STEPS)


def test_progress_is_told_at_most_every_five_seconds(tmp_path, monkeypatch):
    import lurm.training as training

    told, line = [], Line()
    fit(line, optimizers(line), batches, line.loss, directory=tmp_path / "a", key="k", settings=STEPS,
        progress=lambda *entry: told.append(entry))
    assert told == []  # twelve tiny steps last less than that
    monkeypatch.setattr(training, "SECONDS_BETWEEN_REPORTS", 0.0)
    line = Line()
    fit(line, optimizers(line), batches, line.loss, directory=tmp_path / "b", key="k", settings=STEPS,
        progress=lambda *entry: told.append(entry))
    assert told and all(math.isfinite(loss) for _, loss in told)


def test_saved_tensors_come_back_and_damage_is_told(tmp_path):
    tensors = {"a": torch.arange(6).reshape(2, 3), "b": torch.tensor(2.5)}
    save_tensors(tmp_path, tensors, {"name": "m", "scales": ["month"]})
    loaded, info = load_tensors(tmp_path)
    assert info == {"name": "m", "scales": ["month"]}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    manifest = json.loads((tmp_path / "info.json").read_text())
    (tmp_path / manifest["file"]).unlink()
    with pytest.raises(StoreError, match="is missing; delete the folder and run its stage again"):
        load_tensors(tmp_path)
    (tmp_path / "info.json").write_text("{")
    with pytest.raises(StoreError, match="Expected intact tensors"):
        load_tensors(tmp_path)
    with pytest.raises(MissingInputError, match="run its training stage first"):
        load_tensors(tmp_path / "nothing")


def test_device_and_precision():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_precision("auto", torch.device("cpu")) is torch.float32
    assert choose_precision("bfloat16", torch.device("cpu")) is torch.bfloat16
    with autocast(torch.device("cpu"), torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.bfloat16
    with autocast(torch.device("cpu"), torch.float32):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is torch.float32
    with pytest.raises(ConfigError, match="auto, cpu or cuda, got 'gpu'"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="got 'half'"):
        choose_precision("half", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no GPU"):
            choose_device("cuda")
