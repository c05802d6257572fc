"""``python -m fusionkit``: the command line."""

from fusionkit.cli import main

main()
