"""The example runs as it stands, and importing the package stays cheap."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_example_shows_every_way_to_ask() -> None:
    lines = dict(line.split(":", 1) for line in run("examples/llm.py").splitlines())
    assert lines["chat"].strip() == lines["stream"].strip()
    assert lines["chat"].strip().startswith("Hello! I am dflash-demo")
    assert "4 plus 4" in lines["batch"]
    assert "age" in lines["json"]
    assert "tokens per round" in lines["statistics"]
    assert "temperature" in lines["refused"]


def test_importing_the_package_imports_neither_models_nor_http() -> None:
    heavy = ("mlx", "mlx_lm", "transformers", "fastapi", "pydantic", "llguidance")
    code = f"import sys, dflash_serve; print([m for m in {heavy} if m in sys.modules])"
    assert run("-c", code).strip() == "[]"


def test_a_name_that_the_package_does_not_have_is_no_attribute() -> None:
    code = "import dflash_serve; print(hasattr(dflash_serve, 'LML'), hasattr(dflash_serve, 'LLM'))"
    assert run("-c", code).strip() == "False True"
