"""What is said of each damage: requests to undo it, held-out requests, and statements.

What is said of the basic eight lies with the other texts of the scenes, whose vocabulary knows it:
:mod:`fusionkit_standard.scenes.texts`. A held-out request is in no list for training, so that
reading can be told from remembering.
"""

from fusionkit_standard.scenes.texts import (
    DEGRADATION_NAMES,
    held_out_prompts,
    repair_prompts,
    statement,
)

_PROMPTS: dict[str, tuple[str, ...]] = {
    "poisson-noise": (
        "remove the photon noise from the visible image",
        "reduce the shot noise of the visible image",
        "too few photons reached the visible camera, clean its image",
        "take the signal dependent noise out of the visible image",
        "the bright parts of the visible image are noisy, smooth them",
        "suppress the counting noise in the visible image",
        "correct the shot noise and fuse both images",
        "the visible image suffers from photon noise, repair it",
        "denoise the photon starved visible image",
        "restore the visible image from few photons",
    ),
    "gaussian-blur": (
        "remove the Gaussian blur of the visible image",
        "sharpen the softened visible image",
        "recover the fine detail of the smoothed visible image",
        "the visible image was low pass filtered, restore it",
        "bring back the high frequencies of the visible image",
        "make the smooth visible image sharp again",
        "undo the Gaussian smoothing of the visible image",
        "restore texture that the blur took from the visible image",
        "deblur the softly blurred visible image",
        "give the visible image its sharpness back",
    ),
    "defocus": (
        "the visible image is out of focus, refocus it",
        "remove the defocus blur of the visible image",
        "bring the visible image back into focus",
        "correct the focus of the visible camera",
        "sharpen the defocused visible image",
        "the lens of the visible camera was not focused, repair its image",
        "undo the wrong focus of the visible image",
        "restore the unfocused visible image",
        "turn the discs of confusion of the visible image into points",
        "make the defocused scene of the visible image sharp",
    ),
    "motion-blur": (
        "remove the motion blur of the visible image",
        "the visible camera moved, sharpen its image",
        "undo the camera shake of the visible image",
        "correct the smear of motion in the visible image",
        "freeze the motion in the visible image",
        "take the directional blur out of the visible image",
        "the visible image is streaked by motion, restore it",
        "recover the edges smeared by motion in the visible image",
        "stabilise the shaken visible image",
        "make the moving scene of the visible image sharp",
    ),
    "downsample": (
        "raise the resolution of the visible image",
        "the visible image has too few pixels, restore its detail",
        "super-resolve the visible image",
        "upscale the coarse visible image",
        "give the small visible image its fine structure back",
        "recover the detail that downsampling took from the visible image",
        "the visible image was enlarged from a small one, improve it",
        "make the low resolution visible image finer",
        "refine the pixelated visible image",
        "bring the visible image to full resolution",
    ),
    "jpeg": (
        "remove the compression artefacts of the visible image",
        "clean the JPEG blocks of the visible image",
        "the visible image is strongly compressed, restore it",
        "smooth the block edges of the visible image",
        "undo the JPEG compression of the visible image",
        "take the ringing out of the compressed visible image",
        "deblock the visible image",
        "repair the visible image after lossy compression",
        "suppress the coding noise of the visible image",
        "give the compressed visible image its quality back",
    ),
    "rain": (
        "remove the rain",
        "take the rain streaks out of the visible image",
        "it rains in the visible image, clear it",
        "derain the visible image",
        "erase the falling drops",
        "show the scene without rain",
        "clear the bright streaks from the visible image",
        "restore the view behind the rain",
        "the visible image was taken in the rain, clean it",
        "make the rainy scene dry",
    ),
    "snow": (
        "remove the snow",
        "take the flakes out of the visible image",
        "it snows in the visible image, clear it",
        "desnow the visible image",
        "erase the falling flakes",
        "show the scene without snowfall",
        "clear the white spots from the visible image",
        "restore what the flakes hide",
        "the visible image was taken in a snowstorm, clean it",
        "stop the snow in the visible image",
    ),
    "flare": (
        "remove the lens flare",
        "take the glare around the lamp out of the visible image",
        "reduce the glow of the bright light",
        "erase the rays around the light source",
        "the lamp dazzles the visible camera, correct it",
        "show what the glare hides",
        "suppress the dazzling light in the visible image",
        "clean the flare from the visible image",
        "restore the view behind the glow",
        "dim the glaring light of the visible image",
    ),
    "ir-dead-pixels": (
        "correct the dead pixels of the infrared image",
        "remove the defective pixels of the thermal image",
        "fill the dead and hot pixels of the infrared image",
        "the thermal sensor has broken pixels, repair its image",
        "take the white and black dots out of the infrared image",
        "replace the stuck pixels of the thermal image",
        "clean the salt and pepper from the infrared image",
        "erase the single wrong pixels of the infrared image",
        "mend the bad pixels of the thermal sensor",
        "interpolate over the dead detector elements",
    ),
}

_HELD_OUT: dict[str, tuple[str, ...]] = {
    "poisson-noise": (
        "the exposure counted hardly any light, smooth the result",
        "tidy up the quantum noise of the colour camera",
        "variance grows with brightness here, compensate",
        "make a clean photograph of this faint recording",
    ),
    "gaussian-blur": (
        "crispen this photograph",
        "peel off the soft filter",
        "I miss the small structures, return them",
        "counter the wide point spread of the optics",
    ),
    "defocus": (
        "turn the focus ring for me",
        "the autofocus failed, rescue the shot",
        "shrink the circles of confusion",
        "everything is bokeh, make it a clear view",
    ),
    "motion-blur": (
        "hold the camera still after the fact",
        "the exposure was too long for this speed, fix it",
        "remove the trails left by the moving car",
        "deconvolve the linear smear",
    ),
    "downsample": (
        "I need more pixels here",
        "quadruple the sampling of the colour picture",
        "this thumbnail should look like a photograph",
        "reconstruct what lies between the samples",
    ),
    "jpeg": (
        "the squares in the picture disturb me",
        "the file was saved too small, mend it",
        "hide the eight by eight grid",
        "recover from the low quality setting of the codec",
    ),
    "rain": (
        "let the downpour stop",
        "wipe the wet streaks off the scene",
        "I want to see through this shower",
        "pretend the weather had been dry",
    ),
    "snow": (
        "let the blizzard pass",
        "sweep away the white specks in the air",
        "I want to see through the flurry",
        "pretend no flake had fallen",
    ),
    "flare": (
        "the headlight blinds me, shield it",
        "put a lens hood on this photograph",
        "tame the starburst",
        "recover the surroundings of the bright spot",
    ),
    "ir-dead-pixels": (
        "some sensor cells do not answer, guess their values",
        "despeckle the heat picture",
        "apply a bad pixel map to the thermogram",
        "fill the pinholes of the thermal camera",
    ),
}

_STATEMENTS: dict[str, tuple[str, ...]] = {
    "poisson-noise": ("a visible image with photon noise", "a visible image of few photons"),
    "gaussian-blur": ("a smoothed visible image", "a visible image with Gaussian blur"),
    "defocus": ("a defocused visible image", "a visible image with the wrong focus"),
    "motion-blur": ("a visible image with motion blur", "a shaken visible image"),
    "downsample": ("a visible image of low resolution", "a coarse visible image"),
    "jpeg": ("a compressed visible image", "a visible image with JPEG blocks"),
    "rain": ("a visible image in the rain", "a rainy scene"),
    "snow": ("a visible image in falling snow", "a snowy scene"),
    "flare": ("a visible image with lens flare", "a dazzled visible image"),
    "ir-dead-pixels": ("an infrared image with dead pixels", "an infrared image with hot pixels"),
}

PROMPTS: dict[str, tuple[str, ...]] = {
    **{name: repair_prompts(name) for name in DEGRADATION_NAMES},
    **_PROMPTS,
}
HELD_OUT: dict[str, tuple[str, ...]] = {
    **{name: held_out_prompts(name) for name in DEGRADATION_NAMES},
    **_HELD_OUT,
}
STATEMENTS: dict[str, tuple[str, ...]] = {
    **{name: statement(name) for name in DEGRADATION_NAMES},
    **_STATEMENTS,
}
