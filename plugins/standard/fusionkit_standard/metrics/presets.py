"""The tables of the field as data: which variant each printed name stands for, by program."""

from collections.abc import Callable

from fusionkit.protocols import Preset
from fusionkit_standard.metrics.codes import ALIASES

GRAY = "0.299 R + 0.587 G + 0.114 B of the 8-bit picture, rounded to an integer, half to even"
MATLAB_GRAY = f"{GRAY}; MATLAB's rgb2gray differs by one level on 0.5 % of random colours"
EIGHT_BITS = "all three pictures rounded to 8 bits, scored on the scale 0..255"
AS_SAVED = (
    "8-bit files of the authors, scored as they are; how each method wrote them is not stated"
)


def standard() -> Preset:
    """The definitions of the papers, with errors of circulating programs left out."""
    also = ("RMSE", "MS-SSIM")
    return Preset(
        name="standard",
        metrics={short: code for short, code in ALIASES.items() if short not in also},
        also={short: ALIASES[short] for short in also},
        gray=GRAY,
        quantisation=EIGHT_BITS,
        saving="fused pictures clipped to [0, 1] and rounded to 8 bits; no stretching",
        source="fusionkit, after the papers named with each metric",
    )


def cddfuse() -> Preset:
    """The evaluator of CDDFuse, the most copied one of the field."""
    return Preset(
        name="cddfuse",
        metrics={
            "EN": "en",
            "SD": "sd",
            "SF": "sf",
            "MI": "mi_nats",
            "SCD": "scd",
            "VIF": "vif_sum",
            "Qabf": "qabf",
            "SSIM": "ssim_u7_L2_sum",
        },
        also={"AG": "ag", "MSE": "mse", "CC": "cc", "PSNR": "psnr_maxf", "VIFF": "vif_sum"},
        gray=GRAY,
        quantisation=EIGHT_BITS,
        saving="the output stretched from its own minimum and maximum to 0..255, then 8 bits",
        source="Zhaozixiang1228/MMIF-CDDFuse, utils/Evaluator.py with scikit-image 0.19",
        note="The program computes in float32. This changes values by less than 1e-5, SSIM by up "
        "to 1e-4, and by 2.5e-4 on one of its 75 pictures, a tenth of which is flat white.",
    )


def iffilm() -> Preset:
    """The evaluator of IF-FILM: that of CDDFuse with a dynamic range of 255 in SSIM."""
    return Preset(
        name="iffilm",
        metrics={
            "EN": "en",
            "SD": "sd",
            "SF": "sf",
            "AG": "ag",
            "VIFF": "vif_sum",
            "Qabf": "qabf",
        },
        also={
            "MI": "mi_nats",
            "MSE": "mse",
            "CC": "cc",
            "PSNR": "psnr_maxf",
            "SCD": "scd",
            "VIF": "vif_sum",
            "SSIM": "ssim_u7_L255_sum",
        },
        gray=GRAY,
        quantisation=EIGHT_BITS,
        saving="the output stretched from its own minimum and maximum to 0..255, then 8 bits",
        source="Zhaozixiang1228/IF-FILM, utils/Evaluator.py",
    )


def linfeng_tang() -> Preset:
    """The MATLAB tool as its repository has it now."""
    return Preset(
        name="linfeng_tang",
        metrics={
            "EN": "en",
            "MI": "mi_bits_sat254",
            "PSNR": "psnr_plus48",
            "MSE": "mse_unit",
            "SF": "sf",
            "SD": "sd",
            "VIF": "vif_sum",
            "AG": "ag_hm1wm1",
            "CC": "cc",
            "SCD": "scd",
            "Qabf": "qabf",
            "Nabf": "nabf_swapped",
            "SSIM": "ssim_g11_repl_L1_mean",
            "MS_SSIM": "mef_ms_ssim",
            "FMI_dct": "fmi_dct",
        },
        also={"FMI_pixel": "fmi_edge", "FMI_w": "fmi_wavelet"},
        gray=MATLAB_GRAY,
        quantisation=EIGHT_BITS,
        saving=AS_SAVED,
        source="Linfeng-Tang/Evaluation-for-Image-Fusion, Evaluation/*.m",
        note="FMI_pixel (in truth FMI of edges) and FMI_w rest on MATLAB's edge detector and "
        "wavelet filter; ours were not checked against these, so they are not in the table by "
        "default. Nabf scores the infrared picture, by a slip in the order of arguments.",
    )


def linfeng_tang_published() -> Preset:
    """An older state of the same tool, which made the published table of nine methods on TNO."""
    return Preset(
        name="linfeng_tang_published",
        metrics={
            "EN": "en",
            "MI": "mi_bits_sat254",
            "SD": "sd_uint8sat",
            "SF": "sf_unit",
            "MSE": "mse_unit",
            "PSNR": "psnr_plus48",
            "VIF": "vif_uint8_sum",
            "AG": "ag_hm1wm1",
            "CC": "cc",
            "SCD": "scd",
            "Qabf": "qabf",
        },
        gray=MATLAB_GRAY,
        quantisation=EIGHT_BITS,
        saving=AS_SAVED,
        source="Linfeng-Tang/Evaluation-for-Image-Fusion, Metric/Metric_TNO.xlsx",
        note="The published Qabf differs from this one by up to 3e-3 of its value, why is unknown.",
    )


def vifb() -> Preset:
    """The benchmark VIFB: colour pictures channel by channel."""
    return Preset(
        name="vifb",
        metrics={
            "Cross_entropy": "ce",
            "Entropy": "en",
            "Mutinf": "mi_nats",
            "Psnr": "psnr_vifb",
            "Avg_gradient": "ag_hm1wm1",
            "Edge_intensity": "ei",
            "Qabf": "qabf",
            "Variance": "sd",
            "Spatial_frequency": "sf_hw",
            "Rmse": "rmse_vifb",
            "Ssim": "ssim_g11_valid_sum",
            "Qcb": "qcb",
            "Qcv": "qcv",
        },
        also={
            "CE": "ce",
            "EN": "en",
            "MI": "mi_nats",
            "PSNR": "psnr_vifb",
            "AG": "ag_hm1wm1",
            "EI": "ei",
            "SD": "sd",
            "SF": "sf_hw",
            "RMSE": "rmse_vifb",
            "SSIM": "ssim_g11_valid_sum",
        },
        gray="none: each channel is scored, a single one stands for three, and the scores are "
        "averaged; for the spatial frequency the channels stand side by side",
        quantisation=EIGHT_BITS,
        saving="JPEG files of the authors, scored as they are",
        source="xingchenzhang/VIFB, metrics/*.m",
        options={"colour": "channels"},
    )


def textfusion() -> Preset:
    """The textual attention metrics; they need a reference picture and a confidence."""
    return Preset(
        name="textfusion",
        metrics={"Qabf+": "qabf_plus", "SSIM+": "ssim_plus", "VIF+": "vif_plus"},
        also={"Qabf": "qabf", "SSIM": "ssim_g11_repl_L255_mean", "VIF": "vif_wavelet_unit"},
        gray=MATLAB_GRAY,
        quantisation=f"{EIGHT_BITS}; VIF on 0..1",
        saving="8-bit files as the method wrote them; the program resizes a fused picture of "
        "another size, here it is refused",
        source="AWCXV/TextFusion, textual_attention_metrics",
    )


def ivif_zoo() -> Preset:
    """The torch metrics of the survey IVIF_ZOO, as far as they are reproduced."""
    return Preset(
        name="ivif_zoo",
        metrics={
            "EN": "en",
            "MI": "mi_bits",
            "NMI": "nmi_zoo",
            "SF": "sf",
            "SD": "sd",
            "AG": "ag",
            "PSNR": "psnr_plus48",
            "MSE": "mse_unit",
            "CC": "cc",
            "SCD": "scd",
            "Qabf": "qabf",
            "Nabf": "nabf",
        },
        also={"Qy": "qy"},
        gray=GRAY,
        quantisation=EIGHT_BITS,
        saving=AS_SAVED,
        source="RollingPlain/IVIF_ZOO, Metric/*.py",
        note="EN differs by 3.5e-5 (the program adds 1e-7 inside the logarithm), Nabf by up to "
        "1.5e-3 of its value (weight 0 in place of 0.001), Qy is the paper's, not the program's. "
        "Its CE, EI, Qcb, VIF, SSIM and MS_SSIM have borders, windows or constants of their own "
        "and are not offered; nor are QNCIE and TE.",
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    preset.__name__: preset
    for preset in (
        standard,
        cddfuse,
        iffilm,
        linfeng_tang,
        linfeng_tang_published,
        vifb,
        textfusion,
        ivif_zoo,
    )
}
