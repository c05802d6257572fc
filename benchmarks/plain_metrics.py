"""The scores written as their formulas stand, picture by picture, in numpy and scipy.

What a careful person would write in an afternoon: the baseline of ``metrics.py``, and a second
opinion for the tests. ``PLAIN[code](fused, ir, vi)`` takes ``(H, W)`` float64 grey levels 0..255.
"""

import numpy as np
from scipy.ndimage import sobel
from scipy.signal import convolve2d


def _histogram(*pictures):
    counts = np.histogramdd([p.ravel() for p in pictures], [np.arange(257)] * len(pictures))[0]
    return counts / counts.sum()


def _bits(p):
    return -(p[p > 0] * np.log2(p[p > 0])).sum()


def _mutual(a, b):
    joint = _histogram(a, b)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return (joint[seen] * np.log(joint[seen] / independent[seen])).sum()


def _mutual_merged(a, b):
    shifted = _histogram(np.minimum(a + 1, 255), np.minimum(b + 1, 255))
    return _bits(_histogram(a)) + _bits(_histogram(b)) - _bits(shifted)


def _cross(a, b):
    p, q = _histogram(a), _histogram(b)
    both = (p > 0) & (q > 0)
    return (p[both] * np.log2(p[both] / q[both])).sum()


def _q_mi(f, a, b):
    parts = [
        _mutual(x, f) / np.log(2) / (_bits(_histogram(x)) + _bits(_histogram(f))) for x in (a, b)
    ]
    return 2 * sum(parts)


def _gauss(size, sigma):
    r = np.arange(size) - (size - 1) / 2
    window = np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))
    return window / window.sum()


def _moments(a, b, window):
    def mean(picture):
        return convolve2d(picture, window, mode="valid")

    ma, mb = mean(a), mean(b)
    return ma, mb, mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb


def _ssim(a, b, span=255.0, window=None, factor=1.0, border=0):
    window = _gauss(11, 1.5) if window is None else window
    if border:
        a, b = np.pad(a, border, mode="edge"), np.pad(b, border, mode="edge")
    ma, mb, va, vb, cov = _moments(a, b, window)
    va, vb, cov = va * factor, vb * factor, cov * factor
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    return np.mean((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))


def _ssim_box(a, b, span):
    return _ssim(a, b, span, np.full((7, 7), 1 / 49), 49 / 48)


def _vif(reference, distorted):
    kept = there = 0.0
    for scale in (1, 2, 3, 4):
        size = 2 ** (5 - scale) + 1
        window = _gauss(size, size / 5)
        if scale > 1:
            reference, distorted = (
                convolve2d(p, window, mode="valid")[::2, ::2] for p in (reference, distorted)
            )
        _, _, vr, vd, cov = _moments(reference, distorted, window)
        vr, vd = np.maximum(vr, 0), np.maximum(vd, 0)
        g = cov / (vr + 1e-10)
        v = vd - g * cov
        g[vr < 1e-10], v[vr < 1e-10], vr[vr < 1e-10] = 0, vd[vr < 1e-10], 0
        g[vd < 1e-10], v[vd < 1e-10] = 0, 0
        v[g < 0], g[g < 0] = vd[g < 0], 0
        v = np.maximum(v, 1e-10)
        kept += np.log(1 + g**2 * vr / (v + 2)).sum()
        there += np.log(1 + vr / 2).sum()
    return kept / there


def _edges(picture):
    x = convolve2d(picture, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], mode="same")
    y = convolve2d(picture, [[1, 2, 1], [0, 0, 0], [-1, -2, -1]], mode="same")
    angle = np.full(x.shape, np.pi / 2)
    angle[x != 0] = np.arctan(y[x != 0] / x[x != 0])
    return np.hypot(x, y), x**2 + y**2, angle


def _qabf(fused, ir, vi):
    gf, sf, af = _edges(fused)
    total = weight = 0.0
    for g, s, a in (_edges(ir), _edges(vi)):
        ratio = np.where(s == sf, gf, np.minimum(g, gf) / np.maximum(np.maximum(g, gf), 1e-300))
        aligned = 1 - np.abs(a - af) / (np.pi / 2)
        strength = 0.9994 / (1 + np.exp(-15 * (ratio - 0.5)))
        angle = 0.9879 / (1 + np.exp(-22 * (aligned - 0.8)))
        total, weight = total + (strength * angle * g).sum(), weight + g.sum()
    return total / weight


def _pearson(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def _mse(f, a, b):
    return (((a - f) ** 2).mean() + ((b - f) ** 2).mean()) / 2


def _rmse_vifb(f, a, b):
    return sum(np.linalg.norm(x - f) / f.size for x in (a, b)) / 2


def _saturated(f, a, b):
    above = np.clip(np.floor(f - f.mean() + 0.5), 0, 255)
    return np.sqrt(np.minimum(above**2, 255).mean())


def _edge_intensity(f, a, b):
    return np.hypot(sobel(f, 0, mode="nearest"), sobel(f, 1, mode="nearest")).mean()


def _average_gradient(f, a, b):
    return np.sqrt(sum(g**2 for g in np.gradient(f)) / 2).mean()


def _shared_window(p, q):
    """Information that two windows of nine numbers share, one table cell after the other."""
    if np.array_equal(p, q):
        return 1.0
    p, q = ((w - w.min()) / np.ptp(w) if np.ptp(w) else np.ones(9) for w in (p, q))
    p, q = p / p.sum(), q / q.sum()
    upper_p, upper_q = np.cumsum(p), np.cumsum(q)
    u, v, place = p - p.mean(), q - q.mean(), np.arange(1, 10)
    c = (u * v).sum() / np.sqrt((u * u).sum() * (v * v).sum()) if (u * v).sum() else 0.0
    sd_p, sd_q = (np.sqrt((w * place**2).sum() - (w * place).sum() ** 2) for w in (p, q))
    bound = np.zeros((10, 10))
    covariance = 0.0
    for i in range(9):
        for j in range(9):
            if c >= 0:
                bound[i + 1, j + 1] = min(upper_p[i], upper_q[j])
            else:
                bound[i + 1, j + 1] = max(upper_p[i] + upper_q[j] - 1, 0)
            covariance += bound[i + 1, j + 1] - upper_p[i] * upper_q[j]
    t = c / (covariance / (sd_p * sd_q)) if c and sd_p and sd_q else 0.0
    joint_bits = 0.0
    for i in range(9):
        for j in range(9):
            step = bound[i + 1, j + 1] - bound[i, j + 1] - bound[i + 1, j] + bound[i, j]
            cell = t * step + (1 - t) * p[i] * q[j]
            if cell:
                joint_bits -= cell * np.log2(abs(cell))
    h_p, h_q = _bits(p), _bits(q)
    mutual = h_p + h_q - joint_bits
    return 2 * mutual / (h_p + h_q) if mutual else 0.0


def _fmi(f, a, b, rows=None):
    """``rows`` stops after so many rows of windows: the whole takes minutes."""
    values = []
    for source in (a, b):
        for y in range((f.shape[0] - 2) if rows is None else rows):
            for x in range(f.shape[1] - 2):
                here = (slice(y, y + 3), slice(x, x + 3))
                values.append(_shared_window(source[here].ravel("F"), f[here].ravel("F")))
    return np.mean(values)


PLAIN = {
    "en": lambda f, a, b: _bits(_histogram(f)),
    "sd": lambda f, a, b: f.std(),
    "sd_uint8sat": _saturated,
    "sf": lambda f, a, b: np.sqrt((np.diff(f) ** 2).mean() + (np.diff(f, axis=0) ** 2).mean()),
    "sf_hw": lambda f, a, b: np.sqrt(
        ((np.diff(f) ** 2).sum() + (np.diff(f, axis=0) ** 2).sum()) / f.size
    ),
    "ag": _average_gradient,
    "ag_hm1wm1": lambda f, a, b: (
        _average_gradient(f, a, b) * f.size / ((f.shape[0] - 1) * (f.shape[1] - 1))
    ),
    "ei": _edge_intensity,
    "mi_nats": lambda f, a, b: _mutual(a, f) + _mutual(b, f),
    "mi_bits": lambda f, a, b: (_mutual(a, f) + _mutual(b, f)) / np.log(2),
    "mi_bits_sat254": lambda f, a, b: _mutual_merged(a, f) + _mutual_merged(b, f),
    "q_mi": _q_mi,
    "ce": lambda f, a, b: (_cross(a, f) + _cross(b, f)) / 2,
    "mse": _mse,
    "rmse": lambda f, a, b: np.sqrt(_mse(f, a, b)),
    "rmse_vifb": _rmse_vifb,
    "psnr": lambda f, a, b: 10 * np.log10(255**2 / _mse(f, a, b)),
    "psnr_maxf": lambda f, a, b: 10 * np.log10(f.max() ** 2 / _mse(f, a, b)),
    "psnr_plus48": lambda f, a, b: 10 * np.log10(255**2 / (_mse(f, a, b) / 255**2)),
    "psnr_vifb": lambda f, a, b: 20 * np.log10(255 / np.sqrt(_rmse_vifb(f, a, b))),
    "cc": lambda f, a, b: (_pearson(a, f) + _pearson(b, f)) / 2,
    "scd": lambda f, a, b: _pearson(f - b, a) + _pearson(f - a, b),
    "ssim_g11_valid_sum": lambda f, a, b: _ssim(a, f) + _ssim(b, f),
    "ssim_u7_L2_sum": lambda f, a, b: _ssim_box(a, f, 2.0) + _ssim_box(b, f, 2.0),
    "ssim_u7_L255_sum": lambda f, a, b: _ssim_box(a, f, 255.0) + _ssim_box(b, f, 255.0),
    "ssim_g11_repl_L255_mean": lambda f, a, b: (_ssim(a, f, border=5) + _ssim(b, f, border=5)) / 2,
    "vif_sum": lambda f, a, b: _vif(a, f) + _vif(b, f),
    "qabf": _qabf,
    "fmi_none": _fmi,
}
