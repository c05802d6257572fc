"""What is said to the network: sentences by degradation, in the manner of the paper's.

The sentence is the network's only control, and it names what is wrong with which picture. Each list
begins with the sentence that the authors recommend for their weights; where they recommend none, it
is written in the same style. The released training reads its sentences from the data set
(``text.txt`` of each degradation), which :class:`~fusionkit_textif.dataset.Ems` does too.
"""

PLAIN = "This is the infrared and visible light image fusion task."
"""No degradation named."""

_OPENING = "This is the infrared-visible light fusion task."

PROMPTS: dict[str, tuple[str, ...]] = {
    "plain": (
        PLAIN,
        "Combine the infrared and the visible image into one.",
        "Infrared and visible images are fused; neither of them is degraded.",
    ),
    "low_light": (
        "In the context of infrared-visible image fusion, visible images are susceptible to "
        "extremely low light degradation.",
        f"{_OPENING} Visible images have the low light degradation.",
        "The visible image was taken with too little light: brighten it while fusing.",
        "Fuse infrared and visible images, where the visible ones suffer from low light.",
    ),
    "over_exposure": (
        "We're tackling the infrared-visible image fusion challenge, dealing with visible images "
        "suffering from overexposure degradation.",
        f"{_OPENING} Visible images have the overexposure degradation.",
        "The visible image is overexposed: bring its bright parts back while fusing.",
        "Fuse infrared and visible images, where the visible ones suffer from overexposure.",
    ),
    "ir_low_contrast": (
        "In this challenge, we're addressing the fusion of infrared and visible images, with a "
        "specific focus on the low contrast degradation in the infrared images.",
        f"{_OPENING} Infrared images have the low contrast degradation.",
        "The infrared image has little contrast: raise it while fusing.",
        "Fuse infrared and visible images, where the infrared ones suffer from low contrast.",
    ),
    "ir_noise": (
        "We're working on the fusion of infrared and visible images, with special consideration "
        "for the noise degradation affecting the infrared captures.",
        f"{_OPENING} Infrared images have the noise degradation.",
        "The infrared image is noisy: clean it while fusing.",
        "Fuse infrared and visible images, where the infrared ones suffer from noise.",
    ),
    "noise": (
        f"{_OPENING} Visible images have the random noise degradation.",
        "The visible image is noisy: clean it while fusing.",
    ),
    "haze": (
        f"{_OPENING} Visible images have the haze degradation.",
        "The visible image was taken through haze: clear it while fusing.",
    ),
    "rain": (
        f"{_OPENING} Visible images have the rain degradation.",
        "The visible image was taken in the rain: remove the streaks while fusing.",
    ),
    "blur": (
        f"{_OPENING} Visible images have the blur degradation.",
        "The visible image is blurred: sharpen it while fusing.",
    ),
    "ir_stripes": (
        f"{_OPENING} Infrared images have the stripe noise degradation.",
        "The infrared image has stripes: remove them while fusing.",
    ),
}


def sentences(task: str) -> tuple[str, ...]:
    """The sentences of a degradation, called as the bench or as the data set calls it."""
    name = task.lower().replace("-", "_").removeprefix("ems_")
    if name not in PROMPTS:
        known = ", ".join(PROMPTS)
        raise ValueError(f"no sentences for the degradation {task!r}; there are some for {known}.")
    return PROMPTS[name]
