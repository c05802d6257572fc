"""Which variant the short names of the field stand for here: the standard one of each."""

ALIASES: dict[str, str] = {
    "EN": "en",
    "SD": "sd",
    "SF": "sf",
    "AG": "ag",
    "MI": "mi_nats",
    "SSIM": "ssim_g11_valid_sum",
    "VIF": "vif_sum",
    "Qabf": "qabf",
    "SCD": "scd",
}
