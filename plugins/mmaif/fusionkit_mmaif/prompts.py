"""What is said to the network: clauses by degradation, and how they become one sentence.

The paper has ten to twenty requests per degradation, written by a language model and not released;
these are ours, in their manner. Several degradations give one sentence: "remove the haze, take out
the noise and fuse the two images".
"""

from collections.abc import Sequence

PROMPTS: dict[str, tuple[str, ...]] = {
    "none": (
        "fuse the two images",
        "merge the infrared and the visible image",
        "combine both images into one",
        "make one picture of the pair",
        "fuse the pair, both images are clean",
        "bring the two images together",
        "show what both cameras saw in one image",
        "join the visible and the infrared image, nothing has to be repaired",
        "produce the fused image",
        "blend the thermal and the visible picture",
    ),
    "gaussian-noise": (
        "remove the noise of the image pair",
        "take out the Gaussian noise",
        "clean the grainy images",
        "suppress the random noise",
        "the pictures are noisy, make them clean",
        "denoise while fusing",
        "get rid of the grain",
        "smooth out the sensor noise but keep the edges",
        "the image is full of noise, filter it out",
        "give a result without noise",
    ),
    "ir-noise": (
        "the infrared image is noisy, clean it",
        "remove the noise of the infrared image",
        "denoise the thermal picture",
        "take the grain out of the infrared picture",
        "suppress the noise of the thermal sensor",
        "the thermal image shows random noise, filter it out",
        "keep the infrared noise out of the result",
        "clean up the grainy infrared image",
        "do not carry over the noise of the infrared camera",
        "smooth the noisy thermal image",
    ),
    "gaussian-blur": (
        "sharpen the blurred image",
        "remove the blur",
        "the picture is out of focus, make it sharp",
        "restore the fine detail lost to blur",
        "undo the Gaussian blur",
        "the visible image is soft, bring back its edges",
        "deblur while fusing",
        "make the unsharp image crisp",
        "recover sharp contours",
        "give a result in focus",
    ),
    "motion-blur": (
        "remove the motion blur",
        "the camera moved, sharpen the picture",
        "undo the smear of the moving camera",
        "the image is streaked by motion, restore it",
        "correct the shake of the camera",
        "freeze the motion in the visible image",
        "take out the directional blur",
        "make the moving scene sharp again",
        "the visible image is shaken, make it steady",
        "recover edges smeared by motion",
    ),
    "downsample": (
        "increase the resolution",
        "the image has too few pixels, restore its detail",
        "upscale the low-resolution picture",
        "the visible image was enlarged from a small one, sharpen it",
        "give the coarse image its fine structure back",
        "recover the detail lost to downsampling",
        "make the low-resolution image finer",
        "super-resolve while fusing",
        "the picture looks pixelated, improve it",
        "bring the small image to full quality",
    ),
    "jpeg": (
        "remove the compression artefacts",
        "clean the JPEG blocks",
        "the image is strongly compressed, restore it",
        "take out the block edges",
        "the visible image suffers from JPEG, repair it",
        "smooth the blocky picture",
        "undo the damage of the compression",
        "remove ringing and blocks",
        "give a result without compression marks",
        "deblock while fusing",
    ),
    "rain": (
        "remove the rain",
        "take the rain streaks out of the visible image",
        "it rains in the picture, make it dry",
        "clear the streaks",
        "the view is covered by rain, restore it",
        "derain while fusing",
        "erase the falling drops",
        "show the scene without rain",
        "the visible image was taken in the rain, clean it",
        "get rid of the bright streaks of rain",
    ),
    "snow": (
        "remove the snow",
        "take the flakes out of the visible image",
        "it snows in the picture, clear it",
        "erase the falling snow",
        "the view is covered by flakes, restore it",
        "desnow while fusing",
        "show the scene without snowfall",
        "the visible image was taken in a snowstorm, clean it",
        "get rid of the white spots of snow",
        "restore what the flakes hide",
    ),
    "haze": (
        "remove the haze",
        "clear the fog from the visible image",
        "dehaze while fusing",
        "the view is misty, make it clear",
        "lift the veil of haze",
        "the visible image is foggy, restore its contrast",
        "show the distance clearly",
        "take out the mist",
        "get rid of the grey fog",
        "restore the colours behind the haze",
    ),
    "low-light": (
        "brighten the dark visible image",
        "improve the low exposure",
        "the visible image was taken with too little light, correct it",
        "lighten the night scene",
        "raise the brightness",
        "the picture is too dark, enhance it",
        "show what lies in the shadows",
        "enhance the low light image",
        "correct the underexposure",
        "make the dark scene visible",
    ),
    "over-exposure": (
        "reduce the overexposure",
        "the visible image is too bright, correct it",
        "recover the highlights",
        "darken the washed-out picture",
        "bring back the detail in the bright areas",
        "the picture got too much light, repair it",
        "correct the high exposure",
        "tame the glaring areas",
        "restore the overexposed image",
        "lower the brightness to normal",
    ),
    "low-contrast": (
        "increase the contrast of the infrared image",
        "the infrared image has low contrast, stretch it",
        "make warm things stand out of the flat thermal image",
        "the thermal picture is flat, enhance it",
        "restore the range of the infrared image",
        "strengthen the weak contrast",
        "the infrared image is grey and dull, improve it",
        "raise the contrast of the thermal image",
        "enhance the faint infrared signal",
        "correct the low contrast",
    ),
    "ir-stripes": (
        "the infrared image has stripes, clean them",
        "remove the stripes of the infrared image",
        "take out the column noise of the thermal sensor",
        "destripe the infrared picture",
        "the thermal image shows vertical lines, erase them",
        "get rid of the fixed pattern of the infrared image",
        "suppress the striped noise",
        "correct the uneven columns of the thermal image",
        "clean the lines in the infrared picture",
        "keep the stripes out of the result",
    ),
    "flare": (
        "remove the lens flare",
        "take out the glare around the lamp",
        "the visible image has a flare, clean it",
        "erase the rays around the light source",
        "reduce the glow of the bright light",
        "get rid of the flare",
        "the lamp dazzles the camera, correct it",
        "show what the glare hides",
        "suppress the streaks of the lens",
        "restore the view behind the glow",
    ),
}


def clauses(name: str) -> tuple[str, ...]:
    """The clauses of a degradation by its name, with or without ``mmaif-``."""
    key = name.removeprefix("mmaif-")
    key = {"poisson-noise": "gaussian-noise", "ir-salt-pepper": "ir-noise"}.get(key, key)
    key = {"ir-dark-stripes": "ir-stripes", "ir-low-contrast": "low-contrast"}.get(key, key)
    if key not in PROMPTS:
        raise ValueError(f"no prompts for {name!r}; there are some for {', '.join(PROMPTS)}.")
    return PROMPTS[key]


def sentence(requests: Sequence[str]) -> str:
    """Requests as one sentence: commas between them, "and" before the last, no full stop."""
    *before, last = (said[:1].lower() + said[1:].rstrip(". ") for said in requests)
    said = f"{', '.join(before)} and {last}" if before else last
    return said[:1].upper() + said[1:]
