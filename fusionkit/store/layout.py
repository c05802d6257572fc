"""The names and numbers of a stored run: groups, dimensions, variables, format version."""

FORMAT = "fusionkit-run"
FORMAT_VERSION = 1

IMAGES, FEATURES, HEATMAPS = "images", "features", "heatmaps"
SCORES, HISTORY, CONTROL = "scores", "history", "control"
GROUPS = (IMAGES, FEATURES, HEATMAPS, SCORES, HISTORY, CONTROL)
PAIR, BAND, CHANNEL, PROMPT, Y, X = "pair", "band", "channel", "prompt", "y", "x"
METRIC, ARM, SEED, STEP, TERM, SCENE = "metric", "arm", "seed", "step", "term", "scene"
MAPS, WIDE_MAPS, VALUE, WRITTEN = "maps", "maps_float32", "value", "written"
HEIGHT, WIDTH, LARGEST = "height", "width", "largest"
BANDS = ("red", "green", "blue")

HALF_FLOAT_MAX = 65504.0
HALF_FLOAT_RANGE = (1e-3, HALF_FLOAT_MAX / 16)
"""A layer whose first maps peak outside this range is kept in single precision: above, a later pair
may overflow; below, most of the values would be subnormal and lose digits."""

NOT_COMPARED = ("store", "resume", "device", "devices")
"""Parameters that may differ when a run is taken up again: they do not change what is computed."""
