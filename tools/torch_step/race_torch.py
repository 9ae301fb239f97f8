"""The PyTorch trainer of the race: race_torch.py WORK --seconds S trains what race_start.py wrote.

The seconds are those of the whole process, PyTorch's own start included.
"""

import argparse
import json
import time
from pathlib import Path


def main() -> None:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()

    from torch_trainer import train  # noqa: PLC0415  # loads PyTorch, which takes seconds

    found = train(given.work, started + given.seconds, given.threads)
    (given.work / "torch.json").write_text(json.dumps(found))
    print(found)


if __name__ == "__main__":
    main()
