"""Draw docs/first.png, the first picture of the README, from a real pair.

    python .ci/first.py [--pair 25] [--out docs/first.png]

The pair is one of TNO (A. Toet, CC BY 4.0), found as every data set is: under $FUSIONKIT_DATA or
../shared/data. It is fused by what `fusionkit fuse` takes without further words.
"""

import argparse
from pathlib import Path

import fusionkit as fk
from fusionkit import views
from fusionkit.fusing import DEFAULT
from fusionkit.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
ASKED = ("make the people stand out", "brighten the dark image")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--pair", default="25")
    arguments.add_argument("--out", type=Path, default=ROOT / "docs" / "first.png")
    options = arguments.parse_args()
    known = Registry.from_environment().create("dataset", "tno", split="all")
    pair = next(pair for pair in known if pair.name == options.pair)
    method = fk.load_method(DEFAULT, device="cpu")
    plain, first, second = (
        method.fuse(pair.infrared[None], pair.visible[None], words)[0].numpy()
        for words in (None, *ASKED)
    )
    sources = pair.infrared.numpy(), pair.visible.numpy()
    changes = views.difference(first, plain), views.difference(second, plain)
    figure = views.grid(
        [[sources[0], first, changes[0]], [sources[1], second, changes[1]]],
        columns=("sources: infrared, visible", "fused under two prompts", "change to plain fusion"),
        labels=(f"“{ASKED[0]}”", f"“{ASKED[1]}”"),
        width=3.6,
    )
    figure.savefig(options.out, dpi=100, metadata={"Source": "TNO, A. Toet, CC BY 4.0"})
    print(options.out)


if __name__ == "__main__":
    main()
