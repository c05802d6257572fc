"""The contract of an encoder."""

from typing import Any

import pytest
import torch
from torch import nn

from fusionkit.testing.contract import Contract, built_once
from fusionkit.testing.inputs import tiny_batch


class EncoderContract(Contract):
    """``factory(**options)``: ``encode_text``, and for joint encoders pictures and heat maps."""

    prompts = ("a person on the road", "turn the dark picture bright")

    @pytest.fixture
    def encoder(self) -> Any:
        return built_once(self)

    @pytest.fixture
    def joint(self, encoder) -> Any:
        if not hasattr(encoder, "encode_image"):
            pytest.skip("this encoder reads no pictures")
        return encoder

    def test_text_features_have_the_width_it_names(self, encoder):
        text = encoder.encode_text(list(self.prompts))
        assert text.pooled.shape == (len(self.prompts), encoder.text_dim)
        assert text.pooled.isfinite().all()
        if text.tokens is not None:
            assert text.tokens.ndim == 3 and len(text.tokens) == len(self.prompts)
            assert text.tokens.isfinite().all()
        if text.mask is not None:
            assert text.mask.dtype == torch.bool
            assert text.mask.shape == text.tokens.shape[:2]
            assert text.mask.any(1).all()

    def test_a_prompt_reads_the_same_in_any_company(self, encoder):
        together = encoder.encode_text(list(self.prompts)).pooled
        alone = torch.cat([encoder.encode_text([p]).pooled for p in self.prompts])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)

    def test_different_prompts_read_differently(self, encoder):
        first, second = encoder.encode_text(list(self.prompts)).pooled
        assert not torch.allclose(first, second, atol=1e-4)

    def test_an_empty_and_a_very_long_prompt_are_read(self, encoder):
        text = encoder.encode_text(["", "fog and " * 300])
        assert text.pooled.isfinite().all()

    def test_nothing_in_it_waits_to_be_trained(self, encoder):
        if isinstance(encoder, nn.Module):
            assert not [n for n, p in encoder.named_parameters() if p.requires_grad]

    def test_pictures_of_any_size_and_one_or_three_channels_are_read(self, encoder, joint):
        batch = tiny_batch(2, (57, 83))
        for picture in (batch.visible, batch.infrared):
            features = joint.encode_image(picture)
            assert features.pooled.shape == (2, encoder.text_dim)
            assert features.patches.shape[:2] == (2, encoder.text_dim)
            assert features.patches.ndim == 4
            assert features.pooled.isfinite().all() and features.patches.isfinite().all()

    def test_gradient_reaches_the_picture(self, joint):
        picture = tiny_batch(1, (48, 48)).visible.requires_grad_()
        joint.encode_image(picture).pooled.square().sum().backward()
        assert picture.grad.isfinite().all() and picture.grad.abs().sum() > 0

    def test_heat_maps_have_the_size_and_range_of_a_mask(self, joint):
        picture = tiny_batch(2, (57, 83)).visible
        for prompts in (list(self.prompts[:1]), list(self.prompts)):
            heat = joint.heatmap(prompts, picture)
            assert heat.shape == (2, 1, 57, 83)
            assert heat.min() >= 0 and heat.max() <= 1

    def test_a_picture_of_one_grey_level_has_a_heat_map(self, joint):
        heat = joint.heatmap(list(self.prompts[:1]), torch.full((1, 3, 48, 48), 0.5))
        assert heat.isfinite().all()
