"""Programs in processes of their own, without the seconds that an interpreter takes to import everything."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FAST_STYLE = {"pdf.fonttype": 3, "savefig.dpi": 50}  # to embed fonts whole takes half a second a figure
# Answers requests of one line, each in a fork; the flags of two commands cannot be in one process.
SERVER = f"""
import json, os, signal, sys, traceback, warnings
warnings.simplefilter("ignore")
from orderscale_jax import analysis, convert, figures, report
from orderscale_jax.cli import configuration, machine, main
from orderscale_jax.training import sweep, sweep_estimate, workdir

figures.style.STYLE.update({FAST_STYLE})
said = [os.path.abspath(name) for name in ("out", "err")]

for line in sys.stdin:
    arguments, code, place = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.alarm(300)  # whatever hangs
        os.chdir(place)
        for number, name in enumerate(said, start=1):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.argv = ["orderscale", *arguments]
        try:
            exec(code, {{"__name__": "request", "main": main}})
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
            status = 99
        else:
            status = 0
        sys.stderr.flush()
        sys.stdout.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([status, *(open(name).read() for name in said)]), flush=True)
"""


class Answer(NamedTuple):
    code: int
    out: str
    err: str


class Forks:
    """A process that has imported everything and does what is asked in forks of itself."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="orderscale_forks_")
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "EPATH_USE_TF": "0"}
        own |= {"ORDERSCALE_CACHE": f"{self._folder.name}/cache", "PYTHONDONTWRITEBYTECODE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER], cwd=self._folder.name, env=os.environ | own, **pipes
        )

    def run(self, *arguments: str, place: Path, code: str = "main.main()") -> Answer:
        """The command `orderscale` with these arguments in `place`, or other code after the same imports."""
        self._server.stdin.write(json.dumps([arguments, code, str(place)]) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, f"the process that forks is gone, code {self._server.wait()}: see its stderr"
        return Answer(*json.loads(answer))

    def close(self):
        self._server.communicate()
        self._folder.cleanup()
