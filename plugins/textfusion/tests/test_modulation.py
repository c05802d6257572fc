import pytest
import torch
from fusionkit_textfusion.modulation import AffineFusion

from fusionkit.batch import TextFeatures


def text(values):
    return TextFeatures(pooled=torch.tensor([values]))


def test_the_sentence_weights_infrared_and_leaves_visible_alone():
    """Untrained branches add nothing: y = v + w * r with w = 1 + bias change."""
    unit = AffineFusion(channels=2, text_dim=3)
    visible, infrared = torch.full((1, 2, 2, 2), 0.5), torch.full((1, 2, 2, 2), 0.25)
    torch.testing.assert_close(
        unit(visible, infrared, text([1.0, 2.0, 3.0]), {}), visible + infrared
    )
    with torch.no_grad():
        unit.weight.weight[0] = torch.tensor([1.0, 0.0, 0.0])
    y = unit(visible, infrared, text([2.0, 0.0, 0.0]), {})
    torch.testing.assert_close(y[0, 0], torch.full((2, 2), 0.5 + 3 * 0.25))
    torch.testing.assert_close(y[0, 1], torch.full((2, 2), 0.5 + 0.25))


def test_without_residual_it_is_the_papers_formula():
    torch.manual_seed(0)
    unit = AffineFusion(channels=4, text_dim=4, project=False, residual=False)
    visible, infrared = torch.randn(2, 1, 4, 3, 5).unbind()
    vector = torch.randn(1, 4)
    c_v, _, a_v = unit.visible
    c_i, _, a_i = unit.infrared
    expected = a_v(torch.relu(c_v(visible))) + vector.view(1, 4, 1, 1) * a_i(
        torch.relu(c_i(infrared))
    )
    found = unit(visible, infrared, TextFeatures(pooled=vector), {})
    torch.testing.assert_close(found, expected)


def test_widths_that_do_not_meet_are_refused():
    with pytest.raises(ValueError, match="4 channels, text of width 6"):
        AffineFusion(channels=4, text_dim=6, project=False)


def test_without_text_it_says_so():
    with pytest.raises(ValueError, match="encode prompts first"):
        AffineFusion(channels=2, text_dim=3)(
            torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2), None, {}
        )
