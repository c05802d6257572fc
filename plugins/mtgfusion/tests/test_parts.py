"""The parts: cube, reordering, recursion, attention, couplings."""

import pytest
import torch
from fusionkit_mtgfusion import attention as attention_module
from fusionkit_mtgfusion import cube, extractors, transform
from fusionkit_mtgfusion.attention import AttentionOptions, PixelAttention, TokenBlock, attend
from fusionkit_mtgfusion.cube import TextMap, reorder, reorder_rank_one, spread
from fusionkit_mtgfusion.extractors import Coupling
from fusionkit_mtgfusion.guidance import TwoWayBlock
from fusionkit_mtgfusion.transform import (
    cosine_distance,
    domain_transform,
    scan_parallel,
    scan_stepwise,
)
from torch.nn import functional as F

from fusionkit.testing.contract import awake


def whole_map(branch, pooled, size):
    """The text map as it is defined: over every pixel."""
    x = branch.fc(pooled).relu()[..., None, None].expand(-1, -1, *size)
    for block in branch.blocks:
        norm = F.batch_norm(
            x,
            block.norm.running_mean,
            block.norm.running_var,
            block.norm.weight,
            block.norm.bias,
            block.norm.training,
            block.norm.momentum,
        )
        x = x + block.mlp2(block.dw_conv(block.mlp1(norm).roll(1, 3)).relu())
    return x


def branch():
    torch.manual_seed(0)
    return awake(TextMap(8)).requires_grad_(False)


@pytest.mark.parametrize("size", [(3, 4), (9, 9), (8, 30), (31, 9), (20, 26), (1, 17)])
def test_a_text_map_has_few_vectors_and_is_exact_at_any_size(size):
    text, pooled = branch().eval(), torch.randn(2, 8)
    small = text(pooled, size)
    assert small.shape[-2] * small.shape[-1] <= 81
    full = spread(small, *text.grid(size, pooled.device))
    torch.testing.assert_close(full, whole_map(text, pooled, size), rtol=1e-5, atol=1e-5)


def test_statistics_of_training_are_those_of_the_whole_map():
    size, pooled = (20, 26), torch.randn(3, 8)
    ours, whole = branch().train(), branch().train()
    full = spread(ours(pooled, size), *ours.grid(size, pooled.device))
    torch.testing.assert_close(full, whole_map(whole, pooled, size), rtol=1e-4, atol=1e-4)
    for a, b in zip(ours.blocks, whole.blocks, strict=True):
        torch.testing.assert_close(a.norm.running_mean, b.norm.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a.norm.running_var, b.norm.running_var, rtol=1e-4, atol=1e-5)


def test_one_text_for_all_is_normalised_by_what_was_learned():
    text, pooled = branch(), torch.randn(1, 8).expand(4, -1)
    torch.testing.assert_close(text.train()(pooled, (12, 12)), text.eval()(pooled, (12, 12)))
    assert not any(block.norm.num_batches_tracked for block in text.blocks)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_the_nearest_text_vector_is_found_in_pieces(metric, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    visual = torch.randn(2, 33, 6, generator=generator)
    vectors = torch.randn(2, 20, 6, generator=generator)
    monkeypatch.setattr(cube, "PIECE", 130)
    chosen, index = reorder(visual, vectors, metric=metric)
    a, b = visual, vectors
    if metric == "cosine":
        a, b = (x / (x.norm(dim=-1, keepdim=True) + 1e-6) for x in (a, b))
    assert torch.equal(index, torch.cdist(a, b).argmin(-1))
    expected = b.gather(1, index[..., None].expand(-1, -1, 6))
    torch.testing.assert_close(chosen, expected)


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_cube_of_rank_one_is_searched_along_one_line(count):
    generator = torch.Generator().manual_seed(2)
    visual = torch.randn(2, 40, 5, generator=generator)
    scale = torch.randn(2, count, generator=generator)
    direction = torch.randn(2, 5, generator=generator)
    chosen, _ = reorder_rank_one(visual, scale, direction)
    every = scale[..., None] * direction[:, None]
    expected, _ = reorder(visual, every, metric="l2")
    torch.testing.assert_close(chosen, expected)


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 33, 300])
def test_the_parallel_recursion_equals_the_loop(length):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, length, 4, generator=generator)
    log_k = -2 * torch.rand(2, 3, length, generator=generator)
    torch.testing.assert_close(
        scan_parallel(x, log_k), scan_stepwise(x, log_k), rtol=1e-5, atol=1e-5
    )


def test_the_recursion_stands_strong_feedback_and_none():
    x = torch.randn(1, 1, 400, 2)
    never, always = torch.full((1, 1, 400), -1e4), torch.zeros(1, 1, 400)
    torch.testing.assert_close(scan_parallel(x, never), x, rtol=0, atol=1e-6)
    torch.testing.assert_close(scan_parallel(x, always), x[:, :, :1].expand_as(x))
    mixed = torch.where(torch.arange(400) % 7 == 0, -1e4, -0.1).expand(1, 1, 400)
    torch.testing.assert_close(
        scan_parallel(x, mixed), scan_stepwise(x, mixed), rtol=1e-4, atol=1e-5
    )


def test_gradients_of_the_parallel_recursion_are_those_of_the_loop():
    x, log_k = torch.randn(1, 2, 37, 3), -torch.rand(1, 2, 37)
    found = []
    for function in (scan_parallel, scan_stepwise):
        inputs = x.clone().requires_grad_(), log_k.clone().requires_grad_()
        function(*inputs).square().sum().backward()
        found.append([i.grad for i in inputs])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_filter_equals_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(4)
    v, t = (torch.randn(1, 6, 7, 3, generator=generator) for _ in range(2))
    j = v.clone()
    for r in range(6):
        for c in range(1, 7):
            k = torch.exp(-cosine_distance(v[0, r, c], t[0, r, c - 1]))
            j[0, r, c] = (1 - k) * v[0, r, c] + k * j[0, r, c - 1]
    rows = j.clone()
    for c in range(7):
        for r in range(1, 6):
            k = torch.exp(-cosine_distance(rows[0, r, c], t[0, r - 1, c]))
            j[0, r, c] = (1 - k) * rows[0, r, c] + k * j[0, r - 1, c]
    for training in (True, False):  # both ways of computing the recursion
        with torch.set_grad_enabled(training):
            found, parts = domain_transform(v, t)
        torch.testing.assert_close(found, j)
        torch.testing.assert_close(parts["rows"], rows)
    assert parts["k_rows"].shape == parts["k_columns"].shape == (1, 6, 7)
    assert not parts["k_rows"][..., 0].any() and not parts["k_columns"][:, 0].any()


def test_distances_of_large_maps_are_made_in_pieces(monkeypatch):
    x, y = torch.randn(2, 2, 11, 7, 5)
    whole = cosine_distance(x, y)
    monkeypatch.setattr(transform, "PIECE", 100)
    torch.testing.assert_close(cosine_distance(x, y), whole)
    assert cosine_distance(torch.zeros(5), torch.ones(5)) == 1


def test_a_coupling_can_be_undone():
    for swapped in (False, True):
        block = awake(Coupling(swapped=swapped))
        x = torch.randn(2, 2, 8, 9)
        with torch.no_grad():
            y, s = block(x)
            torch.testing.assert_close(block.inverse(y), x, rtol=1e-4, atol=1e-5)
        assert not torch.equal(y, x) and s.shape == (2, 1, 8, 9)


def attention(kind, size=16, shifted=False):
    torch.manual_seed(5)
    options = AttentionOptions(kind, size)
    return PixelAttention(16, attention=options, shifted=shifted).eval().requires_grad_(False)


def test_a_window_as_large_as_the_picture_is_full_attention():
    x = torch.randn(2, 9, 14, 16)
    full = attention("full")(x)
    torch.testing.assert_close(attention("windowed", 16)(x), full, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention("pooled", 1)(x), full, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shifted", [False, True])
def test_windows_see_themselves_alone_at_any_size(shifted):
    module = attention("windowed", 4, shifted)
    module.multi_scale_conv.weight.zero_()  # it mixes along the reading order
    x = torch.randn(1, 11, 9, 16)
    other = x.clone()
    other[:, 0, 0] += 1
    changed = (module(x) - module(other)).abs().amax(-1)[0] > 1e-6
    edge = 2 if shifted else 4
    assert changed[:edge, :edge].all() and changed.sum() == edge**2


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("size", [(11, 9), (8, 12), (3, 2)])
def test_without_gradients_windows_come_row_by_row_with_the_same_values(size, shifted):
    module, x = attention("windowed", 4, shifted), torch.randn(2, *size, 16)
    together = module(x.requires_grad_()).detach()
    with torch.no_grad():
        torch.testing.assert_close(module(x), together, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height", [1, 16, 17, 37, 48])
def test_without_gradients_a_coupling_goes_by_strips_with_the_same_values(height, monkeypatch):
    monkeypatch.setattr(extractors, "STRIP", 1)  # strips of sixteen rows
    block, x = awake(Coupling(swapped=False)), torch.randn(2, 2, height, 5)
    rows, net = [], block.net.forward
    monkeypatch.setattr(block.net, "forward", lambda z: rows.append(z.shape[2]) or net(z))
    together = block(x)
    with torch.no_grad():
        for found, expected in zip(block(x), together, strict=True):
            torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)
    assert rows[0] == height and max(rows[1:]) <= 20


@pytest.mark.parametrize("size", [1, 40])
def test_tiles_of_scores_give_torch_s_attention(size):
    generator = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, n, 16, generator=generator) for n in (300, 530, 530))
    expected = attend(size * q, k.requires_grad_(), v, 2).detach()
    with torch.no_grad():
        torch.testing.assert_close(attend(size * q, k, v, 2), expected, rtol=1e-4, atol=1e-5)


def test_tokens_pass_in_pieces_alike(monkeypatch):
    torch.manual_seed(7)
    x, text = torch.randn(2, 11, 9, 16), torch.randn(2, 3, 16)
    token = TokenBlock(16, attention=AttentionOptions("full"))
    pixel = TwoWayBlock(16)
    with torch.no_grad():
        whole = token(x), pixel(x.flatten(1, 2), text)
        monkeypatch.setattr(attention_module, "PIECE", 700)
        parts = token(x), pixel(x.flatten(1, 2), text)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_pooled_keys_cover_the_picture():
    module = attention("pooled", 4)
    x = torch.randn(1, 11, 9, 16)
    other = x.clone()
    other[:, -1, -1] += 1
    assert ((module(x) - module(other)).abs().amax(-1) > 0).all()
    with pytest.raises(ValueError, match="'global' is none of full, windowed, pooled, auto"):
        AttentionOptions("global")
