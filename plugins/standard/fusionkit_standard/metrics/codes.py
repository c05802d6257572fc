"""Which variant the short names of the field stand for here: the standard one of each."""

ALIASES: dict[str, str] = {
    "EN": "en",
    "SD": "sd",
    "SF": "sf",
    "AG": "ag",
    "MI": "mi_nats",
    "MSE": "mse",
    "RMSE": "rmse",
    "PSNR": "psnr",
    "CC": "cc",
    "SCD": "scd",
    "SSIM": "ssim_g11_valid_sum",
    "MS-SSIM": "ms_ssim",
    "VIF": "vif_sum",
    "Qabf": "qabf",
    "Nabf": "nabf",
}
