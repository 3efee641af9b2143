"""Where the machine code of compiled loops is kept, and that it is of today."""

import os
import subprocess
import sys

from numba import types

from lurm import compiled_loops
from lurm.compiled_loops import compiled, digest_of


def test_without_a_place_for_machine_code_it_is_made_again(monkeypatch):
    asked = []

    def jit(signatures, **options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'bags': no locator available for file 'loops.py'")
        return lambda function: function

    monkeypatch.setattr(compiled_loops, "njit", jit)
    assert compiled(types.void, types.int64[::1], made_of=())(lambda numbers: None) is not None
    assert [bool(options.get("cache")) for options in asked] == [True, False]


def test_machine_code_is_kept_for_the_next_process(tmp_path):
    """And is of these sources: the name of its file holds a digest of the other files it is made of."""
    from lurm.smen import loops

    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", "from lurm.smen import loops; print(sum(loops.bags.stats.cache_hits.values()))"]
    answers = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300).stdout.split() for _ in range(2)]
    assert answers == [["0"], ["1"]] and list(tmp_path.rglob(f"loops.bags_{digest_of(*loops.MADE_OF)}*.nbi"))


def test_every_loop_names_all_files_that_it_is_made_of():
    """What a loop imports from a file that is not named could change and leave old machine code behind."""
    from lurm import rough_loops, rough_tiles
    from lurm.smen import loops, register_tiles

    for module, tiles in ((loops, register_tiles), (rough_loops, rough_tiles)):
        named = {part.__name__ for part in module.MADE_OF}
        used = {getattr(value, "__module__", "") for own in (module, tiles) for value in vars(own).values()}
        assert {name for name in used if name.startswith("lurm")} - {module.__name__, "lurm.compiled_loops"} <= named
