"""The example runs as it stands, and importing the package stays cheap."""

import signal
import subprocess
import sys
from pathlib import Path

import dflash_serve
from dflash_serve import LLM
from tests.llm.chats import HELLO

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_example_shows_every_way_to_ask(llm: LLM) -> None:
    lines = dict(line.split(":", 1) for line in run("examples/llm.py").splitlines())
    assert lines["chat"].strip() == lines["stream"].strip()
    said = llm.chat(HELLO, temperature=0, max_tokens=32).text.splitlines()[0]
    assert lines["chat"].strip() == said.strip() != ""
    assert "4 plus 4" in lines["batch"]
    assert "age" in lines["json"]
    assert "tokens per round" in lines["statistics"]
    assert "temperature" in lines["refused"]


def test_a_program_that_never_closes_ends_quietly() -> None:
    code = "from dflash_serve import LLM; llm = LLM(); print(llm.generate('a', max_tokens=2).text)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert not [line for line in done.stderr.splitlines() if "PyTorch" not in line]


def test_an_interrupt_ends_the_answer_and_the_program() -> None:
    code = (
        "import signal\n"  # a shell leaves it ignored in what runs in the background
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dflash_serve import LLM\n"
        "with LLM() as llm:\n"
        "    print('begun', flush=True)\n"
        "    while True: llm.generate(['a'] * 8, max_tokens=1500, ignore_eos=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert errors.decode().rstrip().endswith("KeyboardInterrupt")


def test_importing_the_package_imports_neither_models_nor_http() -> None:
    heavy = ("mlx", "mlx_lm", "transformers", "fastapi", "pydantic", "llguidance")
    code = f"import sys, dflash_serve; print([m for m in {heavy} if m in sys.modules])"
    assert run("-c", code).strip() == "[]"


def test_a_name_that_the_package_does_not_have_is_no_attribute() -> None:
    assert hasattr(dflash_serve, "LLM")
    assert not hasattr(dflash_serve, "LML")
