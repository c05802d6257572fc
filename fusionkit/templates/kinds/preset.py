"""How one program makes its table.

Source: write here which program.
"""

from fusionkit.protocols import Preset


def component() -> Preset:
    """Three scores, as the standard variants define them."""
    return Preset(
        name="component-name",
        metrics={"EN": "EN", "SD": "SD", "MI": "MI"},
        gray="write here how the program makes colour grey",
        quantisation="write here what it rounds",
        saving="write here how its pictures were written",
        source="ours",
    )
