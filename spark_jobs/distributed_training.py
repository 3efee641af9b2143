"""Starting several training processes with Spark's TorchDistributor: on the driver's machine in local mode, on executors elsewhere.

Every process runs the same stage; torch.distributed splits each batch between them and process 0 writes. Where one of them dies the others
end too, and the stage with one sentence. Not a stage itself: the jobs train_item_encoder, fit_interests and train_smen call it.
"""

import importlib
import io
import os
import re
import sys
from collections import deque
from contextlib import redirect_stdout
from dataclasses import replace

from pyspark.errors import PySparkException

from lurm import errors
from lurm.errors import LurmError
from lurm.lineage import Context

KEPT_LINES = 500


class OneProcess:
    """What each process runs. An executor unpickles it before it starts the process, which must find this package where the executor did."""

    def __init__(self, runner: str, context: Context):
        self.runner, self.context = runner, context

    def __call__(self) -> dict:
        return importlib.import_module(self.runner).run(self.context)

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)


def train(context: Context, runner: str, settings) -> dict:
    """Run the module `runner` in settings.processes processes; returns what process 0 reports.

    Raises what a process raised for the user, LurmError where one was killed.
    """
    from pyspark.ml.torch.distributor import TorchDistributor

    spark = context.spark()
    local = spark.sparkContext.master.startswith("local")
    distributor = TorchDistributor(num_processes=settings.processes, local_mode=local, use_gpu=settings.device == "cuda")
    said = Said(sys.stdout)
    try:
        with redirect_stdout(said):
            return distributor.run(OneProcess(runner, replace(context, spark=None, pins={})))
    except (RuntimeError, PySparkException) as error:
        raise failure("\n".join([*said.lines, str(error)]), settings.processes) or error from None


class Said(io.TextIOBase):
    """Passes on what is written, and keeps the end of it: of what went wrong in a process TorchDistributor tells nothing but what it printed."""

    def __init__(self, out):
        self._out, self.lines = out, deque(maxlen=KEPT_LINES)

    def write(self, text: str) -> int:
        self.lines.extend(text.splitlines())
        return self._out.write(text)

    def flush(self) -> None:
        self._out.flush()


def failure(text: str, n_processes: int) -> LurmError | None:
    """What a failed training says to the user, out of all that its processes printed; None where that is nothing of lurm's, and no signal."""
    raised = [(kind, sentence) for kind, sentence in re.findall(r"lurm\.errors\.(\w+): (.*)$", text, flags=re.MULTILINE) if hasattr(errors, kind)]
    own = [(kind, sentence) for kind, sentence in raised if kind != "LurmError"]  # that another process is gone is no cause
    if own:
        return getattr(errors, own[0][0])(own[0][1])
    signal = re.search(r"\bSIG[A-Z]+\b", text)
    if not raised and signal is None:
        return None
    came = f"one was ended by {signal[0]}" if signal else "one was lost"
    return LurmError(f"Expected {n_processes} training processes to end by themselves, {came}; look for a lack of memory on its machine, then run "
                     "the stage again: it goes on from the last checkpoint.")
