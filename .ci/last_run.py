"""Say where a finished run is and what came out: the end of `make ablation`.

    python .ci/last_run.py runs/ablation.ipynb [papermill's arguments]

The store is the one that the arguments name, else the one under ``runs`` that was written last.
"""

import sys
from pathlib import Path

from fusionkit.errors import FusionkitError
from fusionkit.store import run_info


def store_of(arguments: list[str]) -> str | None:
    """The value of ``-p store VALUE``, the last one if there are several."""
    named = [
        value
        for flag, name, value in zip(arguments, arguments[1:], arguments[2:], strict=False)
        if flag in ("-p", "--parameters", "-r", "--parameters_raw") and name == "store"
    ]
    if named:
        return named[-1]
    written = sorted(Path("runs").glob("*.zarr/zarr.json"), key=lambda file: file.stat().st_mtime)
    return str(written[-1].parent) if written else None


def main() -> None:
    notebook, *arguments = sys.argv[1:]
    print(f"notebook  {Path(notebook).resolve()}")
    store = store_of(arguments)
    if store is None:
        sys.exit("store     none under runs: the run has not written one")
    try:
        facts = run_info(store)
    except FusionkitError as error:
        sys.exit(f"store     {error}")
    print(f"store     {store if '://' in store else Path(store).resolve()}")
    print(f"result    {facts.get('result') or facts.get('notice') or 'none is recorded'}")


if __name__ == "__main__":
    main()
