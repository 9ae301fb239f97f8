"""Makes a demo pair from nothing, as it is shipped: started again, it goes on where it was.

python tools/demo/make.py demo WORK --torch-python PYTHON
python tools/demo/make.py hybrid WORK --torch-python PYTHON

PYTHON has PyTorch, NumPy, safetensors and tokenizers; the Python that runs this file has the
project with its `train` and `bench` extras. WORK receives every stage's files, `make.log` with
everything that was printed, `stages.json` with times and memory, and at the end `shipped`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType

from recipe import RECIPES, Programs, Stage, stages
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage. ``seconds`` is of its last start; ``peak_mib`` of its largest process."""

    command: str
    seconds: float
    peak_mib: int


class Log:
    """``make.log``, its owner and lock. Paths of this machine are shown by ``names``."""

    def __init__(self, path: Path, names: dict[str, str]) -> None:
        self._names = names
        self.file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{path}: a stage is still running in this folder") from None

    def shown(self, text: str) -> str:
        for path, name in self._names.items():
            text = text.replace(path, name)
        return text

    def write(self, line: str) -> None:
        self.file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {self.shown(line)}\n")
        self.file.flush()


class Ledger:
    """Which stages are done: owner of ``stages.json``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.done = {name: Done(**value) for name, value in known.items()}

    def holds(self, name: str, command: str) -> bool:
        """Whether the stage is done; refuses one that was done with another command."""
        done = self.done.get(name)
        if done is not None and done.command != command:
            raise SystemExit(
                f"{self._path}: stage {name!r} was done as {done.command!r}, not {command!r}: "
                "choose another folder"
            )
        return done is not None

    def add(self, name: str, done: Done) -> None:
        self.done[name] = done
        new = self._path.with_suffix(".new")
        text = json.dumps({name: asdict(value) for name, value in self.done.items()}, indent=2)
        new.write_text(text + "\n", encoding="utf-8")
        os.replace(new, self._path)


def run(stage: Stage, log: Log, progress: Progress) -> Done:
    """Run one stage to its end, its lines to the log; a failure ends the program."""
    task = progress.add_task(stage.name, total=None, last="")
    begin = time.monotonic()
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "160"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (str(ROOT), environment.get("PYTHONPATH")))
    )
    with subprocess.Popen(
        stage.command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        pass_fds=(log.file.fileno(),),  # and with it the lock
    ) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                log.write(line.rstrip())
                progress.update(task, last=line.strip()[:80])
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            child.terminate()
            for line in child.stdout:  # of the checkpoint that it writes before it ends
                log.write(line.rstrip())
            raise
    if child.returncode:
        raise SystemExit(f"stage {stage.name!r} ended with {child.returncode}: see {log.file.name}")
    seconds = round(time.monotonic() - begin, 1)
    progress.update(task, total=1, completed=1, last=f"{seconds:.0f} s")
    per_mib = 1024**2 if sys.platform == "darwin" else 1024
    return Done(log.shown(shlex.join(stage.command)), seconds, usage.ru_maxrss // per_mib)


def make(todo: list[Stage], work: Path, names: dict[str, str]) -> None:
    """Run the stages that are not done yet. ``names`` are what the log calls some paths."""
    ledger, log, console = Ledger(work / "stages.json"), Log(work / "make.log", names), Console()
    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(20),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with log.file, Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        shown = {stage.name: log.shown(shlex.join(stage.command)) for stage in todo}
        left = [stage for stage in todo if not ledger.holds(stage.name, shown[stage.name])]
        for stage in left:
            log.write(f"=== {stage.name}: {shown[stage.name]}")
            if not console.is_terminal:
                console.print(f"{datetime.now():%H:%M:%S} {stage.name}")
            done = run(stage, log, progress)
            log.write(f"=== {stage.name}: {done.seconds:.0f} s, {done.peak_mib} MiB at most")
            ledger.add(stage.name, done)


def stop(number: int, _frame: FrameType | None) -> None:
    """End as with Ctrl-C, so that the stage's process is ended too."""
    raise SystemExit(128 + number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pair", choices=RECIPES)
    parser.add_argument("work", type=Path)
    parser.add_argument("--torch-python", default=sys.executable)
    parser.add_argument("--scale", type=float, default=1.0, help="a share, to try the stages")
    args = parser.parse_args()
    torch_python = shutil.which(args.torch_python)
    if torch_python is None:
        parser.error(f"--torch-python: there is no program {args.torch_python}")
    recipe = RECIPES[args.pair] if args.scale == 1 else RECIPES[args.pair].scaled(args.scale)
    programs = Programs(sys.executable, torch_python)
    work = args.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, stop)
    names = {
        str(work): "WORK",
        programs.train: "dflash-train",
        programs.bench: "dflash-bench",
        torch_python: "torch-python",
        sys.executable: "python",
        f"{ROOT}/": "",
    }
    make(stages(recipe, work, programs), work, names)
    print(f"{work / 'shipped'}: done; {work / 'make.log'} has the figures")


if __name__ == "__main__":
    main()
