"""Write docs/hooks.md and docs/components.md from the code; `--check` only compares.

    python .ci/reference.py [--check]
"""

import inspect
import os
import sys
import tomllib
from pathlib import Path

from examples import SEEN

ROOT = Path(__file__).resolve().parent.parent
TOLD = "<!-- Written by `python .ci/reference.py`; do not edit by hand. -->"


def hooks() -> str:
    """Every hook, with what its specification and its kind's protocol say."""
    from fusionkit import hookspecs, protocols
    from fusionkit.registry import KINDS

    parts = [
        "# Hooks",
        TOLD,
        inspect.cleandoc(hookspecs.__doc__),
        "A plugin answers a hook with a function of the hook's name, marked `@hookimpl` (from "
        "`fusionkit.hookspecs`). `fusionkit new NAME --kind KIND` writes one to start from.",
    ]
    for kind, plural in KINDS.items():
        hook = f"fusionkit_{plural}"
        parts += [f"## `{kind}`", f"`{hook}()`", inspect.getdoc(getattr(hookspecs, hook))]
        shape = getattr(protocols, kind.capitalize(), None)
        if shape is not None:
            parts += ["What is built:", _indented(inspect.getdoc(shape))]
    return "\n\n".join(parts) + "\n"


def components() -> str:
    """Every bundled component with its plugin, what it needs, and its paper."""
    from fusionkit.registry import Registry

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    os.environ["FUSIONKIT_PLUGINS"] = ",".join(project["entry-points"]["fusionkit"])
    parts = [
        "# Components",
        TOLD,
        "What the bundle offers; `fusionkit plugins` lists what is installed, yours included.",
    ]
    rows = [row for row in Registry.from_environment().describe() if row["kind"] != "plugin"]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        drawn = kind in SEEN
        lines = [
            "| name | plugin | what it is | paper |" + " example |" * drawn,
            "|---|---|---|---|" + "---|" * drawn,
        ]
        for row in (r for r in rows if r["kind"] == kind):
            cells = [f"`{row['name']}`", row["plugin"], row["summary"], row["paper"]]
            if drawn:
                file = f"examples/{kind}-{row['name']}.jpg"
                cells.append(f"![]({file})" if (ROOT / "docs" / file).is_file() else "")
            lines.append("| " + " | ".join(str(c or "").replace("|", "\\|") for c in cells) + " |")
        shown = [f"The pictures: {SEEN[kind]}."] if drawn else []
        parts += [f"## {kind}", *shown, "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def main() -> None:
    stale = []
    for name, text in (("hooks.md", hooks()), ("components.md", components())):
        file = ROOT / "docs" / name
        if "--check" not in sys.argv:
            file.write_text(text, encoding="utf-8")
        elif not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        sys.exit(f"docs/{', docs/'.join(stale)}: not what the code says; run .ci/reference.py")


if __name__ == "__main__":
    main()
